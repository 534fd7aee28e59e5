// process: see process.h. Called by the three programs' main; owns nothing.
#include "postern/base/process.h"
#include <sys/prctl.h>
#include <sys/resource.h>

void process_raise_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

void process_forbid_core(void) {
#ifdef POSTERN_NO_CORE
  const struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
#ifndef POSTERN_SANITIZED // LeakSanitizer attaches to its own process
  prctl(PR_SET_DUMPABLE, 0);
#endif
#endif
}
