// greeting: the first control message each way, on a conn that is no link yet. See link.h.
#include "postern/base/crypto.h"
#include "postern/trunk/link.h"

int link_greeting_read(struct link_greeting *g, struct conn *c, struct control *out, struct err_text *e) {
  for (;;) {
    struct frame f = {0};
    size_t want = FRAME_HEADER;
    if (g->have >= FRAME_HEADER) {
      const char *why;
      if (frame_get_header(g->buf, &f, &why)) return err_set(e, PERR_PROTOCOL, "%s", why);
      if (f.type != FRAME_CONTROL) return err_set(e, PERR_PROTOCOL, "the first frame is of type %u", f.type);
      want += f.len;
    }
    if (g->have == want && want > FRAME_HEADER) {
      int code = control_decode(g->buf + FRAME_HEADER, f.len, out, e);
      crypto_wipe(g->buf, g->have); // a hello holds a token
      return code;
    }
    size_t n;
    int code = conn_read(c, g->buf + g->have, want - g->have, &n);
    if (code) return code;
    g->have += n;
  }
}

int link_greeting_write(struct conn *c, const struct control *m) {
  uint8_t buf[FRAME_MAX];
  size_t len, n;
  int code = control_encode(m, buf + FRAME_HEADER, FRAME_PAYLOAD_MAX, &len);
  if (code == 0) {
    frame_put_header(buf, &(struct frame){.type = FRAME_CONTROL, .len = (uint16_t)len});
    code = conn_write(c, buf, FRAME_HEADER + len, &n);
  }
  crypto_wipe(buf, sizeof buf);
  if (code) return code;
  code = conn_flush(c);
  return code == PERR_AGAIN ? 0 : code;
}
