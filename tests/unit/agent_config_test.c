// config, spec, options: both forms of the agent's configuration, and what each says about a mistake.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "postern/agent/config.h"
#include "postern/agent/options.h"
#include "postern/base/crypto.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIN "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

static char folder[] = "/tmp/agent_config_test.XXXXXX";

static const char *in_folder(const char *name) {
  static char path[sizeof folder + 64];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void write_file(const char *name, const char *text) {
  FILE *f = fopen(in_folder(name), "w");
  assert_non_null(f);
  assert_true(fputs(text, f) >= 0);
  assert_int_equal(fclose(f), 0);
  assert_int_equal(chmod(in_folder(name), 0600), 0);
}

static int set_up(void **state) {
  if (!mkdtemp(folder)) return -1;
  unsetenv("POSTERN_TOKEN");
  unsetenv("POSTERN_ENROL");
  write_file("token", "the-token\n");
  return 0;
}

static int tear_down(void **state) {
  static const char *const names[] = {"token", "agent.json", "empty", "enrol"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) unlink(in_folder(names[i]));
  return rmdir(folder);
}

// ---- agent.json ----

static int load(const char *json, const struct options *more, struct agent_config **out, struct err_text *e) {
  char file[sizeof folder + 16];
  struct options o = more ? *more : (struct options){0};
  write_file("agent.json", json);
  snprintf(file, sizeof file, "%s/agent.json", folder);
  o.config = file;
  return agent_config_load(out, &o, e);
}

static void a_whole_file(void **state) {
  struct agent_config *c;
  struct err_text e = {""};
  int rc = load("{\"server\": \"gw.example.com:7841\", \"token_file\": \"token\", \"instance\": \"box\","
                " \"tls\": {\"ca\": null, \"server_name\": null, \"pin_sha256\": [\"" PIN "\", \"" PIN "\"],"
                "           \"certificate\": null, \"key\": null},"
                " \"tunnels\": ["
                "  {\"name\": \"ssh\", \"protocol\": \"tcp\", \"target\": \"[::1]:22\", \"port\": 22022,"
                "   \"strict_port\": true, \"description\": \"the door\"},"
                "  {\"name\": \"web\", \"protocol\": \"tcp\", \"target\": \"8080\"},"
                "  {\"name\": \"raw\", \"protocol\": \"tcp\", \"target\": 9, \"port\": 0}]}",
                NULL, &c, &e);
  assert_string_equal(e.s, "");
  assert_int_equal(rc, 0);
  assert_string_equal(c->host, "gw.example.com");
  assert_int_equal(c->port, 7841);
  assert_string_equal(c->instance, "box");
  assert_int_equal(c->npins, 2);
  assert_int_equal(c->ntunnels, 3);
  assert_string_equal(c->tunnels[0].host, "::1");
  assert_int_equal(c->tunnels[0].target_port, 22);
  assert_int_equal(c->tunnels[0].port, 22022);
  assert_true(c->tunnels[0].strict_port);
  assert_string_equal(c->tunnels[0].description, "the door");
  assert_string_equal(c->tunnels[1].host, "127.0.0.1");
  assert_int_equal(c->tunnels[1].target_port, 8080);
  assert_int_equal(c->tunnels[1].port, 0);
  assert_false(c->tunnels[1].strict_port);
  assert_int_equal(c->tunnels[2].target_port, 9);
  char text[TARGET_TEXT], token[CONTROL_TOKEN_TEXT];
  assert_string_equal(spec_target(&c->tunnels[0], text), "[::1]:22");
  assert_string_equal(spec_target(&c->tunnels[1], text), "127.0.0.1:8080");
  assert_int_equal(agent_config_token(c, token, &e), 0);
  assert_string_equal(token, "the-token");
  write_file("token", "another\n"); // it is read anew each time
  assert_int_equal(agent_config_token(c, token, &e), 0);
  assert_string_equal(token, "another");
  write_file("token", "the-token\n");
  agent_config_free(c);
}

#define HEAD       "{\"server\": \"gw:1\", \"token_file\": \"token\", \"tls\": {\"pin_sha256\": \"" PIN "\"}"
#define TUNNEL     "{\"name\": \"a\", \"protocol\": \"tcp\", \"target\": \"22\"}"
#define WITH(more) "{\"name\": \"b\", \"protocol\": \"tcp\", \"target\": \"22\", " more "}"

static void mistakes_name_file_and_key(void **state) {
  static const struct {
    const char *json, *says;
  } rows[] = {
      {"{", "agent.json:1: "},
      {"{\"server\": \"gw:1\"\n, \"server\": \"gw:1\"}", "agent.json:2: "},
      {"{\"tunnels\": []}", "agent.json: server: missing"},
      {"{\"server\": \"gw\", \"token_file\": \"token\", \"tunnels\": []}",
       "agent.json: server: \"gw\" is not HOST:PORT"},
      {"{\"server\": \"gw:0\", \"token_file\": \"token\", \"tunnels\": []}", "agent.json: server: "},
      {"{\"server\": 7, \"token_file\": \"token\", \"tunnels\": []}", "agent.json: server: expected a string"},
      {"{\"server\": \"gw:1\", \"tunnels\": []}", "agent.json: token_file: missing"},
      {"{\"server\": \"gw:1\", \"token_file\": \"\", \"tunnels\": []}", "agent.json: token_file: empty"},
      {"{\"server\": \"gw:1\", \"token_file\": \"none\", \"tunnels\": []}", "agent.json: token_file: "},
      {"{\"server\": \"gw:1\", \"token_file\": \"empty\", \"tunnels\": []}", "empty: empty"},
      {HEAD ", \"instance\": \"A b\", \"tunnels\": []}", "agent.json: instance: \"A b\""},
      {HEAD ", \"allow_targets\": [], \"tunnels\": []}", "agent.json: unknown key allow_targets"},
      {HEAD "}", "agent.json: tunnels: missing"},
      {HEAD ", \"tunnels\": \"server\"}", "agent.json: tunnels: expected a list"},
      {HEAD ", \"tunnels\": null}", "agent.json: tunnels: expected a list"},
      {HEAD ", \"tunnels\": [1]}", "agent.json: tunnels[0]: expected an object"},
      {HEAD ", \"tunnels\": [" TUNNEL ", " TUNNEL "]}", "agent.json: tunnels[1].name: \"a\" is the name of tunnels[0]"},
      {HEAD ", \"tunnels\": [" TUNNEL ", " WITH("\"compress\": true") "]}",
       "agent.json: unknown key tunnels[1].compress"},
      {HEAD ", \"tunnels\": [" TUNNEL ", " WITH("\"port\": 65536") "]}", "agent.json: tunnels[1].port: 65536"},
      {HEAD ", \"tunnels\": [" TUNNEL ", " WITH("\"port\": -1") "]}", "agent.json: tunnels[1].port: -1"},
      {HEAD ", \"tunnels\": [" TUNNEL ", " WITH("\"port\": \"22\"") "]}",
       "agent.json: tunnels[1].port: expected an int"},
      {HEAD ", \"tunnels\": [" WITH("\"strict_port\": 1") "]}", "agent.json: tunnels[0].strict_port: expected"},
      {HEAD ", \"tunnels\": [{\"protocol\": \"tcp\", \"target\": \"22\"}]}", "agent.json: tunnels[0].name: missing"},
      {HEAD ", \"tunnels\": [{\"name\": \"A\", \"protocol\": \"tcp\", \"target\": \"22\"}]}", "tunnels[0].name: \"A\""},
      {HEAD ", \"tunnels\": [{\"name\": \"a\", \"target\": \"22\"}]}", "agent.json: tunnels[0].protocol: missing"},
      {HEAD ", \"tunnels\": [" TUNNEL ", {\"name\": \"b\", \"protocol\": \"sctp\", \"target\": \"22\"}]}",
       "agent.json: tunnels[1].protocol: \"sctp\" is not known (tcp, udp)"},
      {HEAD ", \"tunnels\": [" TUNNEL ", " WITH("\"idle_seconds\": 5") "]}",
       "agent.json: tunnels[1].idle_seconds: only for udp"},
      {HEAD ", \"tunnels\": [" TUNNEL ", " WITH("\"idle_seconds\": 86401") "]}",
       "agent.json: tunnels[1].idle_seconds: 86401"},
      {HEAD ", \"tunnels\": [{\"name\": \"a\", \"protocol\": \"tcp\"}]}", "agent.json: tunnels[0].target: missing"},
      {HEAD ", \"tunnels\": [{\"name\": \"a\", \"protocol\": \"tcp\", \"target\": null}]}",
       "tunnels[0].target: expected"},
      {HEAD ", \"tunnels\": [{\"name\": \"a\", \"protocol\": \"tcp\", \"target\": 0}]}", "tunnels[0].target: \"0\""},
      {HEAD ", \"tunnels\": [{\"name\": \"a\", \"protocol\": \"tcp\", \"target\": 65536}]}", "target: \"65536\""},
      {HEAD ", \"tunnels\": [{\"name\": \"a\", \"protocol\": \"tcp\", \"target\": \"host\"}]}", "target: \"host\""},
      {"{\"server\": \"gw:1\", \"token_file\": \"token\", \"tls\": {\"pin_sha256\": \"ab\"}, \"tunnels\": []}",
       "agent.json: tls.pin_sha256: \"ab\" is not a SHA-256"},
      {"{\"server\": \"gw:1\", \"token_file\": \"token\", \"tls\": {\"ca\": \"no.crt\"}, \"tunnels\": []}",
       "agent.json: tls.ca: "},
      {"{\"server\": \"gw:1\", \"token_file\": \"token\", \"tls\": {\"ca\": \"token\"}, \"tunnels\": []}",
       "agent.json: tls: "},
      {"{\"server\": \"gw:1\", \"token_file\": \"token\", \"tls\": {\"key\": \"token\"}, \"tunnels\": []}",
       "agent.json: tls.certificate: missing"},
      {"{\"server\": \"gw:1\", \"token_file\": \"token\", \"tls\": {\"verify\": false}, \"tunnels\": []}",
       "agent.json: unknown key tls.verify"},
  };
  write_file("empty", "\n");
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct agent_config *c;
    struct err_text e = {""};
    assert_true(load(rows[i].json, NULL, &c, &e) < 0);
    if (!strstr(e.s, rows[i].says)) fail_msg("row %zu: %s", i, e.s);
  }
}

static void the_order_of_the_tokens(void **state) {
  static const char json[] = HEAD ", \"tunnels\": []}";
  struct agent_config *c;
  struct err_text e = {""};
  char token[CONTROL_TOKEN_TEXT];
  struct options o = {.env_token = "from-env"};
  assert_int_equal(load(json, &o, &c, &e), 0);
  assert_int_equal(agent_config_token(c, token, &e), 0);
  assert_string_equal(token, "from-env");
  agent_config_free(c);
  write_file("empty", "from-option\n");
  char file[sizeof folder + 16];
  snprintf(file, sizeof file, "%s/empty", folder);
  o.token_file = file;
  assert_int_equal(load(json, &o, &c, &e), 0);
  assert_int_equal(agent_config_token(c, token, &e), 0);
  assert_string_equal(token, "from-option");
  agent_config_free(c);
  o = (struct options){.env_token = ""};
  assert_true(load(json, &o, &c, &e) < 0);
  assert_non_null(strstr(e.s, "POSTERN_TOKEN: empty"));
}

static void what_leads_to_another_gateway(void **state) {
  static const char *const jsons[] = {
      HEAD ", \"tunnels\": []}",
      HEAD ", \"tunnels\": [" TUNNEL "]}",
      HEAD ", \"instance\": \"b\", \"tunnels\": []}",
      "{\"server\": \"gw:2\", \"token_file\": \"token\", \"tls\": {\"pin_sha256\": \"" PIN "\"}, \"tunnels\": []}",
      "{\"server\": \"gw:1\", \"token_file\": \"token\", \"tunnels\": []}",
  };
  struct agent_config *c[5];
  struct err_text e = {""};
  for (size_t i = 0; i < 5; i++) assert_int_equal(load(jsons[i], NULL, &c[i], &e), 0);
  assert_true(agent_config_same_gateway(c[0], c[1]));
  for (size_t i = 2; i < 5; i++) assert_false(agent_config_same_gateway(c[0], c[i]));
  for (size_t i = 0; i < 5; i++) agent_config_free(c[i]);
}

// ---- one line ----

enum { MAX_ARGS = 20 };

// Splits at spaces; "@" stands for the folder.
static int parse(const char *line, struct options *o, struct err_text *e) {
  static char words[1024];
  char *argv[MAX_ARGS], *save = NULL;
  int argc = 0;
  size_t n = 0;
  for (const char *p = line; *p; p++) {
    const char one[] = {*p, '\0'};
    n += (size_t)snprintf(words + n, sizeof words - n, "%s", *p == '@' ? folder : one);
  }
  for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
  return options_parse(o, argc, argv, e);
}

static int load_line(const char *line, struct agent_config **out, struct err_text *e) {
  struct options o;
  int rc = parse(line, &o, e);
  return rc < 0 ? rc : agent_config_load(out, &o, e);
}

static void one_line_makes_the_same_struct(void **state) {
  struct agent_config *line, *file;
  struct err_text e = {""};
  assert_int_equal(load_line("postern tcp 22 --server gw:1 --token-file @/token --pin=" PIN
                             " --port 22022 --strict-port",
                             &line, &e),
                   0);
  int rc = load("{\"server\": \"gw:1\", \"token_file\": \"token\", \"tls\": {\"pin_sha256\": \"" PIN "\"}, \"tunnels\":"
                "[{\"name\": \"tcp-22\", \"protocol\": \"tcp\", \"target\": \"22\", \"port\": 22022,"
                " \"strict_port\": true}]}",
                NULL, &file, &e);
  assert_int_equal(rc, 0);
  assert_true(spec_equal(&line->tunnels[0], &file->tunnels[0]));
  assert_int_equal(line->ntunnels, file->ntunnels);
  assert_string_equal(line->server, file->server);
  assert_string_equal(line->host, file->host);
  assert_string_equal(line->instance, file->instance);
  assert_string_equal(line->token_file, file->token_file);
  assert_int_equal(line->npins, file->npins);
  assert_memory_equal(line->pins, file->pins, sizeof line->pins);
  agent_config_free(line);
  agent_config_free(file);
}

static void options_of_one_line(void **state) {
  struct agent_config *c;
  struct err_text e = {""};
  assert_int_equal(
      load_line("postern --server gw:1 --name web --instance box tcp --token-file @/token 10.0.0.1:80", &c, &e), 0);
  assert_string_equal(c->tunnels[0].name, "web");
  assert_string_equal(c->tunnels[0].host, "10.0.0.1");
  assert_string_equal(c->instance, "box");
  agent_config_free(c);
}

static void an_enrolment_line_is_enough(void **state) {
  struct agent_config *c;
  struct err_text e = {""};
  char token[CONTROL_TOKEN_TEXT];
  write_file("enrol", "postern://gw.example.com:7841#pin=" PIN "&token=enrolled\n");
  assert_int_equal(load_line("postern tcp 22 --enrol-file @/enrol", &c, &e), 0);
  assert_string_equal(c->host, "gw.example.com");
  assert_int_equal(c->npins, 1);
  assert_int_equal(c->pins[0][31], 31);
  assert_int_equal(agent_config_token(c, token, &e), 0);
  assert_string_equal(token, "enrolled");
  agent_config_free(c);

  setenv("POSTERN_ENROL", "postern://gw:1#pin=" PIN "&token=enrolled", 1);
  assert_int_equal(load_line("postern tcp 22 --token-file @/token", &c, &e), 0);
  assert_int_equal(agent_config_token(c, token, &e), 0);
  assert_string_equal(token, "the-token");
  assert_string_equal(c->server, "gw:1");
  agent_config_free(c);
  setenv("POSTERN_ENROL", "", 1);
  assert_true(load_line("postern tcp 22 --token-file @/token --server gw:1", &c, &e) < 0);
  assert_non_null(strstr(e.s, "POSTERN_ENROL: "));
  unsetenv("POSTERN_ENROL");
}

static void mistakes_name_the_option(void **state) {
  static const struct {
    const char *line, *says;
  } rows[] = {
      {"postern", "give -c FILE"},
      {"postern sctp 22", "unknown command sctp"},
      {"postern udp", "udp: the target is missing"},
      {"postern import x.json", "unknown command import"},
      {"postern tcp", "tcp: the target is missing"},
      {"postern tcp 22 23", "more than one target: 23"},
      {"postern tcp 22 --host a", "unknown option --host"},
      {"postern tcp 22 --serv gw:1", "unknown option --serv "},
      {"postern tcp 22 --token=S3cret", "--token: a secret never comes"},
      {"postern tcp 22 --tokn=S3cret", "unknown option --tokn "},
      {"postern tcp 22 -x", "unknown option -x"},
      {"postern tcp 22 --server", "--server: a value is missing"},
      {"postern tcp 22 --server=", "--server: empty"},
      {"postern tcp 22 --server gw:1 --server gw:1", "--server: given twice"},
      {"postern tcp 22 --strict-port=1", "--strict-port takes no value"},
      {"postern tcp 22 --log xml", "--log: \"xml\""},
      {"postern tcp 22 --log-level loud", "--log-level: \"loud\""},
      {"postern -c a.json tcp 22", "-c and a command"},
      {"postern -c a.json --port 22", "--port: belongs into the configuration file"},
      {"postern tcp 22 --token-file @/token", "--server: missing"},
      {"postern tcp 22 --server gw:1", "--token-file: missing"},
      {"postern tcp 22 --server gw --token-file @/token", "--server: \"gw\" is not HOST:PORT"},
      {"postern tcp 22 --server gw:1 --token-file @/none", "--token-file: "},
      {"postern tcp 22 --server gw:1 --token-file @/token --ca @/none", "--ca: "},
      {"postern tcp 22 --server gw:1 --token-file @/token --pin zz", "--pin: \"zz\""},
      {"postern tcp 22 --server gw:1 --token-file @/token --port 65536", "--port: \"65536\""},
      {"postern tcp 22 --server gw:1 --token-file @/token --name A", "--name: \"A\""},
      {"postern tcp 22 --server gw:1 --token-file @/token --instance A", "--instance: \"A\""},
      {"postern tcp x --server gw:1 --token-file @/token", "target: \"x\""},
      {"postern tcp 0 --server gw:1 --token-file @/token", "target: \"0\""},
      {"postern tcp 22 --enrol-file @/none", "enrolment file "},
      {"postern tcp 22 --enrol-file @/token", "/token: not an enrolment line"},
      {"postern -c @/none.json", "/none.json: "},
      {"postern tcp 22 --server gw:1 --token-file @/empty", "--token-file: the token is not UTF-8"},
  };
  write_file("empty", "\xff\xfe\n");
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct agent_config *c;
    struct err_text e = {""};
    if (load_line(rows[i].line, &c, &e) == 0) fail_msg("row %zu is taken", i);
    if (!strstr(e.s, rows[i].says)) fail_msg("row %zu: %s", i, e.s);
    assert_null(strstr(e.s, "S3cret"));
    assert_null(strchr(e.s, '\n'));
  }
}

static void help_and_version_come_first(void **state) {
  struct options o;
  struct err_text e = {""};
  assert_int_equal(parse("postern tcp --help --nonsense", &o, &e), 0);
  assert_true(o.help);
  assert_int_equal(parse("postern -h", &o, &e), 0);
  assert_true(o.help);
  assert_int_equal(parse("postern --version", &o, &e), 0);
  assert_true(o.version);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_whole_file),
      cmocka_unit_test(mistakes_name_file_and_key),
      cmocka_unit_test(the_order_of_the_tokens),
      cmocka_unit_test(what_leads_to_another_gateway),
      cmocka_unit_test(one_line_makes_the_same_struct),
      cmocka_unit_test(options_of_one_line),
      cmocka_unit_test(an_enrolment_line_is_enough),
      cmocka_unit_test(mistakes_name_the_option),
      cmocka_unit_test(help_and_version_come_first),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
