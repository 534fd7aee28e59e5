// replay: runs a fuzz target over its corpus in the ordinary test run, every truncation of small inputs included.
// Arguments are files and folders; a folder without a file is an error, so that a lost corpus does not pass unseen.
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TRUNCATE_MAX = 4096 };

static bool fail(const char *path, const char *why) {
  fprintf(stderr, "%s: %s\n", path, why);
  return false;
}

// The copy has exactly `size` bytes, so that the address sanitizer sees a read past its end.
static bool run(const char *path, const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size ? size : 1);
  if (!copy) return fail(path, "out of memory");
  memcpy(copy, data, size);
  // An empty input may still be looked at: no byte of it is there.
  LLVMFuzzerTestOneInput(size ? copy : copy + 1, size);
  free(copy);
  return true;
}

static bool run_file(const char *path, size_t size, size_t *inputs) {
  uint8_t *data = malloc(size + 1);
  FILE *f = fopen(path, "rb");
  bool ok = data && f && fread(data, 1, size, f) == size;
  if (!ok) fail(path, "cannot be read");
  for (size_t n = size <= TRUNCATE_MAX ? 0 : size; ok && n <= size; n++) {
    ok = run(path, data, n);
    ++*inputs;
  }
  if (f) fclose(f);
  free(data);
  return ok;
}

static bool run_path(const char *path, size_t *inputs);

static bool run_folder(const char *path, size_t *inputs) {
  DIR *folder = opendir(path);
  if (!folder) return fail(path, strerror(errno));
  size_t before = *inputs;
  bool ok = true;
  for (const struct dirent *entry; ok && (entry = readdir(folder));) {
    char inner[PATH_MAX];
    if (entry->d_name[0] == '.') continue;
    ok = snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) < (int)sizeof inner ? run_path(inner, inputs)
                                                                                         : fail(path, "name too long");
  }
  closedir(folder);
  if (ok && *inputs == before) return fail(path, "no file in it");
  return ok;
}

static bool run_path(const char *path, size_t *inputs) {
  struct stat st;
  if (stat(path, &st) != 0) return fail(path, strerror(errno));
  return S_ISDIR(st.st_mode) ? run_folder(path, inputs) : run_file(path, (size_t)st.st_size, inputs);
}

int main(int argc, char **argv) {
  size_t inputs = 0;
  bool ok = argc > 1;
  if (!ok) fprintf(stderr, "usage: %s FILE|FOLDER...\n", argv[0]);
  for (int i = 1; i < argc && ok; i++) ok = run_path(argv[i], &inputs);
  printf("%zu inputs\n", inputs);
  return ok ? 0 : 1;
}
