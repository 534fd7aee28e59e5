#!/usr/bin/env bash
# The whole test run, for CI and for a developer's machine alike: the layering rule, the unit tests on the sanitizer
# builds, then the end-to-end tests on all builds. The first failure ends it; pytest's summary is its last line.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: tools/test.sh [--quick] [PYTEST_ARGUMENT...]

Installs missing Debian packages, builds the presets dev, tsan and release with warnings as errors, and runs all tests.
  --quick   without the tsan build and without the tests marked slow
What follows goes to pytest, for instance: tools/test.sh --quick -k ban -x
TEXT
}

quick=false
case "${1-}" in
--quick) quick=true && shift ;;
-h | --help) usage && exit 0 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset POSTERN_BIN
python=/usr/bin/python3
began=$SECONDS
step() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - began)); }

step "Packages"
tools/packages.sh build test

step "Layers and headers"
"$python" tests/layering.py

# build PRESET [CMAKE_OPTION...]
build() {
  local preset=$1
  shift
  step "Build: $preset"
  cmake --preset "$preset" -DPOSTERN_WERROR=ON "$@" >/dev/null
  cmake --build --preset "$preset"
}

# The sanitizers of gcc 12 cannot start where the kernel randomises addresses by more bits than they know.
prefix=()
choose_prefix() {
  local folder sanitizer
  folder=$(mktemp -d)
  for sanitizer in thread address; do
    echo 'int main(void) { return 0; }' | gcc "-fsanitize=$sanitizer" -x c -o "$folder/probe" -
    for _ in 1 2 3 4 5 6 7 8; do
      "$folder/probe" >/dev/null 2>&1 || prefix=(setarch -R)
    done
  done
  rm -rf "$folder"
}

unit_tests() {
  step "Unit tests: $1"
  "${prefix[@]}" ctest --test-dir "build/$1" --output-on-failure --no-tests=error --timeout 120 -j "$(nproc)"
}

choose_prefix
builds="dev release"
pytest_options=()
build dev
unit_tests dev
if "$quick"; then
  pytest_options+=(-m "not slow")
else
  builds="dev tsan release"
  build tsan
  unit_tests tsan
fi
build release -DBUILD_TESTING=OFF

step "End-to-end tests: $builds"
export POSTERN_BUILDS=$builds
exec "${prefix[@]}" "$python" -m pytest "${pytest_options[@]}" "$@"
