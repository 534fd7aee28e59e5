#!/usr/bin/env bash
# Fuzzes every parser for a while, on a clang build with AddressSanitizer and UndefinedBehaviorSanitizer. A developer
# runs it, CI may. It writes into build/ alone: the corpus in the tree is copied, and what the fuzzer learns stays in
# the copy for the next run.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: tools/fuzz.sh [SECONDS]

Installs missing Debian packages, builds the preset fuzz and runs each target of tests/fuzz for SECONDS (default: 60).
Inputs that break a parser are kept in build/fuzz-artifacts; the status is then 1. To run one again:
  build/fuzz/fuzz/TARGET build/fuzz-artifacts/FILE
and to have every test run replay it, put it into tests/fuzz/corpus/TARGET.
TEXT
}

case "${1-}" in
-h | --help) usage && exit 0 ;;
esac
seconds=${1-60}
if [ $# -gt 1 ] || ! [[ "$seconds" =~ ^[1-9][0-9]{0,5}$ ]]; then
  usage >&2
  exit 2
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/packages.sh build test fuzz
targets=()
for source in tests/fuzz/*_fuzz.c; do targets+=("$(basename "$source" .c)"); done
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]}"

artifacts=build/fuzz-artifacts
mkdir -p "$artifacts"
broken=()
for target in "${targets[@]}"; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  cp -- "tests/fuzz/corpus/$target"/* "$corpus"
  printf '\n== %s (%d s)\n' "$target" "$seconds"
  "build/fuzz/fuzz/$target" -max_total_time="$seconds" -max_len=17000 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$artifacts/$target-" "$corpus" || broken+=("$target")
done

if [ ${#broken[@]} -gt 0 ]; then
  printf '\nfuzz.sh: broken: %s; the inputs are in %s\n' "${broken[*]}" "$artifacts" >&2
  exit 1
fi
printf '\nfuzz.sh: %d targets, %d s each, nothing found\n' ${#targets[@]} "$seconds"
