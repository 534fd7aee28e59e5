// command: the table of commands; what is not in it is refused. Called by args and main.
#include "postern/ctl/command.h"
#include "postern/ctl/cmd_bind.h"
#include "postern/ctl/cmd_gateway.h"
#include "postern/ctl/cmd_passwd.h"
#include "postern/ctl/cmd_store.h"
#include "postern/ctl/cmd_token.h"
#include "postern/ctl/cmd_user.h"
#include "postern/ctl/output.h"
#include <stdio.h>
#include <string.h>

static const struct args_option no_options[] = {{NULL, NULL, NULL}};

static const struct args_option ban_options[] = {{"--reason", "TEXT", "why; stands in the audit"},
                                                 {"--for", "TIME", "30m, 2h, 7d…; without it, for good"},
                                                 {NULL, NULL, NULL}};

static const struct args_option limit_options[] = {
    {"--tunnels", "N", "tunnels of a session"},
    {"--connections", "N", "visitors of a session at once"},
    {"--instances", "N", "sessions at once"},
    {"--ports", "RANGES", "ports that it may ask for: 20000-20100,2222"},
    {"--hosts", "NAMES", "hosts that it may ask for: '*.a.example.com,b.example.com'"},
    {NULL, NULL, NULL}};

static const struct args_option token_options[] = {
    {"--expires", "TIME", "12h, 30d…; without it, never"},
    {"--label", "TEXT", "what it is for"},
    {"--enrol", "HOST:PORT", "print an enrolment line for that gateway (with -c)"},
    {NULL, NULL, NULL}};

static const struct args_option audit_options[] = {{"--since", "TIME", "not older than 15m, 1h, 7d…"},
                                                   {NULL, NULL, NULL}};

// clang-format off
static const struct command commands[] = {
    {"user add", "NAME", "new user; prints its id",
     "user add alice", 1, 1, cmd_user_add, cmd_user_print_id, no_options},
    {"user list", "", "all users",
     "user list --json", 0, 0, cmd_user_list, cmd_user_print_list, no_options},
    {"user show", "NAME", "one user with its limits",
     "user show alice", 1, 1, cmd_user_show, cmd_user_print, no_options},
    {"user remove", "NAME", "ends its sessions, tokens and bindings",
     "user remove alice", 1, 1, cmd_user_remove, cmd_user_print_removed, no_options},
    {"user passwd", "NAME", "for the web login; read from stdin",
     "user passwd alice", 1, 1, cmd_passwd, cmd_passwd_print, no_options},
    {"user ban", "NAME", "shut out, now; replaces an older ban",
     "user ban alice --for 2h --reason abuse", 1, 1, cmd_user_ban, cmd_user_print_ban, ban_options},
    {"user unban", "NAME", "let in again",
     "user unban alice", 1, 1, cmd_user_unban, cmd_user_print_ban, no_options},
    {"user bind", "NAME WHAT…", "reserve tcp/2222 udp/53 host/a.b.org",
     "user bind alice tcp/2222 host/app.example.com", 2, ARGS_MAX_WORDS, cmd_bind, cmd_bind_print, no_options},
    {"user unbind", "NAME WHAT…", "give such a reservation up",
     "user unbind alice tcp/2222", 2, ARGS_MAX_WORDS, cmd_unbind, cmd_bind_print, no_options},
    {"user limit", "NAME", "set limits by options, or print them",
     "user limit alice --tunnels 4 --ports 20000-20100,2222", 1, 1, cmd_limit, cmd_limit_print, limit_options},
    {"token create", "NAME", "new token; shown this once",
     "-c gateway.json token create alice --expires 30d --enrol gw.example.com:7841", 1, 1, cmd_token_create,
     cmd_token_print_new, token_options},
    {"token list", "NAME", "a user's tokens",
     "token list alice", 1, 1, cmd_token_list, cmd_token_print_list, no_options},
    {"token revoke", "ID", "void, now",
     "token revoke 0f3a5c7e9b1d", 1, 1, cmd_token_revoke, cmd_token_print_revoked, no_options},
    {"session list", "", "live sessions",
     "session list", 0, 0, cmd_session_list, cmd_session_print_list, no_options},
    {"session kick", "NAME[/INSTANCE]", "close sessions; they may come back",
     "session kick alice/laptop", 1, 1, cmd_session_kick, cmd_session_print_kicked, no_options},
    {"status", "", "the running gateway",
     "status", 0, 0, cmd_status, output_object, no_options},
    {"audit", "", "what was done and refused",
     "audit --since 1h", 0, 0, cmd_audit, NULL, audit_options},
    {"reload", "", "the gateway reads its configuration again",
     "reload", 0, 0, cmd_reload, cmd_reload_print, no_options},
    {"backup", "FILE", "a consistent copy; restore it as data.mdb",
     "backup /var/backups/postern.mdb", 1, 1, cmd_backup, cmd_backup_print, no_options},
};
// clang-format on

enum { COMMANDS = sizeof commands / sizeof commands[0] };

// True when the name is `first`, or `first` and `second`.
static bool name_is(const char *name, const char *first, const char *second) {
  size_t len = strlen(first);
  if (strncmp(name, first, len) != 0) return false;
  return second ? name[len] == ' ' && strcmp(name + len + 1, second) == 0 : name[len] == '\0';
}

const struct command *command_find(const char *first, const char *second) {
  for (unsigned i = 0; i < COMMANDS; i++)
    if (name_is(commands[i].name, first, second)) return &commands[i];
  return NULL;
}

bool command_is_group(const char *first) {
  size_t len = strlen(first);
  for (unsigned i = 0; i < COMMANDS; i++)
    if (strncmp(commands[i].name, first, len) == 0 && commands[i].name[len] == ' ') return true;
  return false;
}

static void help_line(const char *left, const char *right, size_t width) {
  printf("  ");
  output_text(left, width);
  printf("  %s\n", right);
}

static void help_options(const struct args_option *options) {
  for (size_t i = 0; options[i].name; i++) {
    char left[64];
    snprintf(left, sizeof left, "%s%s%s", options[i].name, options[i].value ? " " : "",
             options[i].value ? options[i].value : "");
    help_line(left, options[i].help, 17);
  }
}

static void help_all(void) {
  printf("usage: posternctl [-c gateway.json | --db DIR] [--json] COMMAND …\n"
         "Manages a Postern gateway; users and tokens also while it is stopped.\n\n");
  for (unsigned i = 0; i < COMMANDS; i++) {
    char left[64];
    snprintf(left, sizeof left, "%s%s%s%s", commands[i].name, commands[i].arguments[0] ? " " : "",
             commands[i].arguments, commands[i].options[0].name ? " [OPTION]" : "");
    help_line(left, commands[i].summary, 30);
  }
  printf("\n");
  help_options(args_global);
  printf("\nWithout -c and --db: ./gateway.json, then /etc/postern/gateway.json.\n"
         "example: posternctl --db /var/lib/postern user ban alice --for 2h\n");
}

static void help_one(const struct command *command) {
  printf("usage: posternctl [-c gateway.json | --db DIR] [--json] %s%s%s%s\n%s\n\n", command->name,
         command->arguments[0] ? " " : "", command->arguments, command->options[0].name ? " [OPTION]" : "",
         command->summary);
  help_options(command->options);
  help_options(args_global);
  printf("\nexample: posternctl %s\n", command->example);
}

void command_help(const struct command *command) {
  if (command)
    help_one(command);
  else
    help_all();
}
