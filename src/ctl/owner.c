// owner: gives root's power up for that of the database folder's owner. Called by context, once, before anything in
// the folder is touched.
#include "postern/ctl/owner.h"
#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

// The owner of the folder, or of the one above while it does not exist.
static int find_owner(const char *dir, struct stat *st, struct err_text *e) {
  if (stat(dir, st) == 0) return 0;
  int why = errno;
  char *copy = strdup(dir);
  if (!copy) return err_set(e, PERR_NOMEM, "%s: %s", dir, perr_str(PERR_NOMEM));
  int rc = 0;
  if (why != ENOENT)
    rc = err_set(e, PERR_IO, "cannot look at the database folder %s: %s", dir, strerror(why));
  else if (stat(dirname(copy), st) < 0)
    rc = err_set(e, PERR_NOTFOUND, "the database folder %s does not exist, nor the folder that it should be in", dir);
  free(copy);
  return rc;
}

int owner_become(const char *dir, struct err_text *e) {
  if (geteuid() != 0) return 0;
  struct stat st;
  int rc = find_owner(dir, &st, e);
  if (rc < 0 || st.st_uid == 0) return rc;
  const struct passwd *pw = getpwuid(st.st_uid);
  gid_t gid = pw ? pw->pw_gid : st.st_gid;
  int groups = pw ? initgroups(pw->pw_name, gid) : setgroups(1, &gid);
  if (groups < 0 || setresgid(gid, gid, gid) < 0 || setresuid(st.st_uid, st.st_uid, st.st_uid) < 0)
    return err_set(e, PERR_DENIED, "cannot act as the owner of %s (uid %u): %s", dir, (unsigned)st.st_uid,
                   strerror(errno));
#ifdef POSTERN_SANITIZED
  prctl(PR_SET_DUMPABLE, 1); // the leak checker has to look into the process
#else
  prctl(PR_SET_DUMPABLE, 0); // the owner's other programs have not
#endif
  return 0;
}
