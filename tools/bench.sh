#!/usr/bin/env bash
# Measures the release build of Postern on loopback against OpenSSH's -R and against bare loopback, in one run. A
# developer runs it. It writes into build/ alone (as root also /run/sshd, which sshd asks for), and what it starts
# listens on 127.0.0.1 alone.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: tools/bench.sh [OPTION...]

Installs missing Debian packages, builds the preset release, the load generator and the NSP client, measures and prints
tables.
  --quick          one round instead of three
  --rounds N       so many rounds
  --seconds S      length of each measurement (default: 5)
  --visitors N     idle visitors whose memory is measured (default: 3000)
  --only WORK...   of conn-1 conn-32 conn-256 ping-1 ping-32 pump-4 download-4 upload-4 memory nsp udp
  --ssh-ciphers L  OpenSSH's Ciphers (default: its own choice)
  --ssh-session    ssh with a session beside the tunnel in place of -N: only then sshd sets TCP_NODELAY
The tables go to build/bench/table.md, every figure to build/bench/results.json. The status is 1 when Postern or bare
loopback had an error.
TEXT
}

for argument in "$@"; do
  case "$argument" in -h | --help) usage && exit 0 ;; esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=build/bench
tools/packages.sh build bench
mkdir -p "$out"
(cmake --preset release -DBUILD_TESTING=OFF && cmake --build --preset release) >"$out/build.log" 2>&1 || {
  tail -n 40 "$out/build.log" >&2
  echo "bench.sh: the build failed" >&2
  exit 1
}
compile() {
  "${CC:-cc}" -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wno-unused-parameter -o "$out/$1" "${@:2}"
}
compile load tests/bench/{load,bulk,datagrams,exchange,net,tally,target}.c
compile nsp_bench tests/bench/{nsp_bench,nsp_client,nsp_relay,nsp_tls,net}.c -lssl -lcrypto
exec /usr/bin/python3 tests/bench/run.py --load "$out/load" --nsp-client "$out/nsp_bench" --bin build/release/bin \
  --out "$out" "$@"
