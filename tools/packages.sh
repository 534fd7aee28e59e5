#!/usr/bin/env bash
# The one list of the Debian packages that Postern needs; installs those that are missing, as root or through sudo.
# The other tools run it. Usage: tools/packages.sh build|test|fuzz|bench ...
set -euo pipefail

# gcc brings the run-time libraries of AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer with it.
packages_of() {
  case "$1" in
  build) echo cmake ninja-build gcc libc6-dev pkg-config libevent-dev liblmdb-dev libjansson-dev libssl-dev uthash-dev \
    openssl python3 ;;
  test) echo libcmocka-dev python3-pytest util-linux binutils ;;
  fuzz) echo clang libclang-rt-dev ;;
  bench) echo openssh-server openssh-client ;;
  *) return 1 ;;
  esac
}

if [ $# -eq 0 ]; then
  echo "usage: tools/packages.sh build|test|fuzz|bench ..." >&2
  exit 2
fi
wanted=()
for purpose in "$@"; do
  list=$(packages_of "$purpose") || {
    echo "packages.sh: unknown purpose: $purpose (build, test, fuzz or bench)" >&2
    exit 2
  }
  read -ra names <<<"$list"
  wanted+=("${names[@]}")
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "packages.sh: not a Debian system; make sure that it has what these packages hold: ${wanted[*]}" >&2
  exit 0
fi

missing=()
for name in "${wanted[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) || state=
  [ "$state" = installed ] || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "packages.sh: missing: ${missing[*]}; run as root or install them with: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing Debian packages: ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}"
