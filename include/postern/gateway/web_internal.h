// web_internal: what the files of the web part share. The handshake thread's, but for letters.
#ifndef POSTERN_GATEWAY_WEB_INTERNAL_H
#define POSTERN_GATEWAY_WEB_INTERNAL_H

#include "postern/base/hash.h"
#include "postern/gateway/gateway.h"
#include "postern/gateway/hasher.h"
#include "postern/gateway/tries.h"
#include "postern/gateway/web.h"
#include "postern/wire/http.h"

#include <jansson.h>
#include <sys/queue.h>

// ---- letters: how other threads answer (web_mail.c) ----

// The web part's address for other threads, which may answer after it has gone: the store thread outlives it.
struct web_mail;

// Embedded in what is answered. `open` is called once: on the loop's thread with the web part, or, when that has gone,
// with NULL on any thread. It owns the letter, and what that is embedded in, from there.
struct web_letter {
  struct web_mail *mail;
  void (*open)(struct web *w, struct web_letter *l);
};

struct web_mail *web_mail_new(struct web *w, struct loop *l); // NULL: no memory
void web_mail_end(struct web_mail *m); // from now on letters are opened with NULL. After the loop's thread has ended
// A letter holds the mail from address to send or cancel. Send: any thread.
void web_letter_address(struct web_letter *l, struct web_mail *m);
void web_letter_send(struct web_letter *l);
void web_letter_cancel(struct web_letter *l); // opens it with NULL

// ---- connections (web.c) ----

// IDLE: between requests. HEAD: of the next request something is there, or nothing yet of the first. BUSY: its answer
// is made elsewhere. ANSWER: the peer is to take the rest of it. Each but GONE is a list, the oldest first.
enum web_state { WEB_IDLE, WEB_HEAD, WEB_BUSY, WEB_ANSWER, WEB_GONE };

struct web_conn {
  struct web *web;
  uint64_t id;
  UT_hash_handle hh; // in web->conns
  struct conn *conn;
  struct addr peer;
  char key[TRIES_KEY_TEXT]; // of the peer
  struct web_ports ports;
  bool plaintext;
  enum web_state state;
  uint64_t since_ms; // in this state
  TAILQ_ENTRY(web_conn) of_state;
  // The request. NULL while nothing of it is there.
  struct http_head *head;
  char *in; // WEB_HEAD_MAX bytes
  size_t in_len;
  bool head_only, close_after, get_only, old; // of the request; get_only: what is called; old: HTTP/1.0
  char *out; // the answer that is being sent, else NULL
  size_t out_len, out_off;
};

struct web {
  struct gateway *gateway;
  struct loop *loop;
  struct config *config;
  struct web_mail *mail;
  struct hasher *hasher;
  struct tries *wrong_by_address, *wrong_by_user;
  struct tries *anonymous_by_address; // borrowed
  struct web_conn *conns; // by id
  TAILQ_HEAD(web_list, web_conn) lists[WEB_GONE];
  uint64_t last_id;
  struct loop_timer *deadline;
};

// NULL: it has gone. Found by whoever answers a BUSY one.
struct web_conn *web_find(struct web *w, uint64_t id);
// The answer comes later, from elsewhere.
void web_wait(struct web_conn *c);
// These answer the request; the conn may be gone after them. `data` is taken, and NULL is null; strings that are
// secret are the caller's to wipe before it lets go of a reference of its own.
void web_answer(struct web_conn *c, json_t *data);
void web_answer_error(struct web_conn *c, const char *message);
void web_refuse(struct web_conn *c, int status, const char *message);

// ---- the calls (web_api.c, web_login.c) ----

// A request whose head is complete; answers it, or has it answered later.
void web_serve(struct web_conn *c);
void web_login(struct web_conn *c, struct http_slice query);

#endif
