#!/usr/bin/env bash
# Makes a small certificate authority and the certificates of a gateway and its agents. An operator runs it, and so do
# tools/demo.sh and the tests; it needs openssl alone. What it owns: ca.*, gateway.* and NAME.* in the output folder.
set -euo pipefail
umask 077

usage() {
  cat <<'TEXT'
Usage: certs/make-certs.sh [options] NAME_OR_IP...
       certs/make-certs.sh [options] --client NAME

Makes in the output folder, with EC P-256 keys of mode 0600:
  ca.key, ca.crt            a certificate authority; one that is there already is used again
  gateway.key, gateway.crt  for the given host names and IP addresses, the leaf followed by the CA;
                            when they exist the certificate is renewed and the key kept, so that pins hold
  NAME.key, NAME.crt        with --client: a client certificate with the common name NAME, for mutual TLS

Options:
  --out DIR      the folder (default: the current one); made when missing
  --days N       how long the certificates are valid (default: 397)
  --ca-days N    how long a new CA is valid (default: 3650)
  --client NAME  make a client certificate for the user NAME; may be given more than once
  --new-key      give the gateway or the client a new key although one is there
  -h, --help     this text

Example:
  certs/make-certs.sh --out /etc/postern/certs gw.example.com 192.0.2.7
TEXT
}

fail() {
  printf 'make-certs.sh: %s\n' "$1" >&2
  exit 1
}

bad_usage() {
  printf 'make-certs.sh: %s (see --help)\n' "$1" >&2
  exit 2
}

days=397 ca_days=3650 out=. new_key=false
names=() clients=()

# The value of option $1; $2 is the number of arguments left, $3 the value.
value_of() {
  [ "$2" -ge 2 ] || bad_usage "$1 needs a value"
  printf '%s' "$3"
}

days_of() {
  [[ "$2" =~ ^[1-9][0-9]{0,4}$ ]] || bad_usage "$1: not a number of days between 1 and 99999: $2"
  printf '%s' "$2"
}

while [ $# -gt 0 ]; do
  case "$1" in
  -h | --help) usage && exit 0 ;;
  --days | --ca-days | --out | --client)
    value=$(value_of "$1" $# "${2-}")
    case "$1" in
    --days) days=$(days_of "$1" "$value") ;;
    --ca-days) ca_days=$(days_of "$1" "$value") ;;
    --out) out=$value ;;
    --client) clients+=("$value") ;;
    esac
    shift
    ;;
  --new-key) new_key=true ;;
  --) shift && names+=("$@") && break ;;
  -*) bad_usage "unknown option: $1" ;;
  *) names+=("$1") ;;
  esac
  shift
done

[ $((${#names[@]} + ${#clients[@]})) -gt 0 ] || bad_usage "no host name, IP address or client given"
[ -n "$out" ] || bad_usage "--out: empty folder name"
command -v openssl >/dev/null || fail "openssl is not installed"

# subjectAltName entry of one host name or address.
alt_name_of() {
  local label='[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
  local byte='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
  if [[ "$1" =~ ^$byte(\.$byte){3}$ || "$1" =~ ^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$ ]]; then
    printf 'IP:%s' "$1" # of an IPv6 address openssl judges the rest
  elif [[ "$1" =~ ^[0-9.]+$ ]]; then
    bad_usage "not an IP address: $1"
  elif [[ ${#1} -le 253 && "$1" =~ ^(\*\.)?$label(\.$label)*$ ]]; then
    printf 'DNS:%s' "$1"
  else
    bad_usage "not a host name or an IP address: $1"
  fi
}

alt_names=
for name in "${names[@]}"; do
  entry=$(alt_name_of "$name")
  alt_names+="${alt_names:+,}$entry"
done
for client in "${clients[@]}"; do
  [[ "$client" =~ ^[a-z0-9][a-z0-9._-]{0,63}$ ]] ||
    bad_usage "--client: not a user's name (1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit): $client"
  case "$client" in ca | gateway) bad_usage "--client: the files of $client.crt are taken" ;; esac
done

mkdir -p -- "$out" || fail "cannot make the folder $out"
cd -- "$out" || fail "cannot enter the folder $out"
work=$(mktemp -d .make-certs.XXXXXX) || fail "cannot write into $out"
trap 'rm -rf -- "$work"' EXIT

# Runs openssl and shows what it said only when it failed.
quiet_openssl() {
  openssl "$@" >"$work/said" 2>&1 && return
  cat "$work/said" >&2
  fail "openssl $1 failed"
}

new_key_file() {
  quiet_openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

make_ca() {
  new_key_file "$work/ca.key"
  # The random part tells two authorities apart in an error message.
  cat >"$work/ca.conf" <<CONF
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = Postern CA $(openssl rand -hex 4)
[extensions]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
CONF
  quiet_openssl req -x509 -new -sha256 -config "$work/ca.conf" -key "$work/ca.key" -days "$ca_days" -out "$work/ca.crt"
  mv -- "$work/ca.key" ca.key
  mv -- "$work/ca.crt" ca.crt
  echo "made the certificate authority $out/ca.crt"
}

check_ca() {
  local of_key of_crt
  of_key=$(openssl pkey -in ca.key -pubout 2>/dev/null) || fail "$out/ca.key is not a private key"
  of_crt=$(openssl x509 -in ca.crt -noout -pubkey 2>/dev/null) || fail "$out/ca.crt is not a certificate"
  [ "$of_key" = "$of_crt" ] || fail "$out/ca.key is not the key of $out/ca.crt"
  openssl x509 -in ca.crt -noout -checkend 0 >/dev/null ||
    fail "$out/ca.crt has expired: move ca.key and ca.crt away to get a new authority"
  openssl x509 -in ca.crt -noout -checkend $((days * 86400)) >/dev/null ||
    echo "make-certs.sh: warning: $out/ca.crt expires before the certificates made now" >&2
}

# issue FILE COMMON_NAME USAGE ALT_NAMES: FILE.key (kept when there) and FILE.crt, signed by the CA.
issue() {
  local file=$1 common_name=$2 usage=$3 alt=$4 key="$1.key"
  if [ ! -e "$key" ] || "$new_key"; then
    new_key_file "$work/$file.key"
    key="$work/$file.key"
  fi
  cat >"$work/leaf.conf" <<CONF
[req]
prompt = no
distinguished_name = name
[name]
CN = $common_name
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = $usage
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
${alt:+subjectAltName = $alt}
CONF
  quiet_openssl req -new -sha256 -config "$work/leaf.conf" -key "$key" -out "$work/leaf.csr"
  quiet_openssl x509 -req -sha256 -in "$work/leaf.csr" -CA ca.crt -CAkey ca.key -set_serial "0x1$(openssl rand -hex 15)" \
    -days "$days" -extfile "$work/leaf.conf" -extensions extensions -out "$work/leaf.crt"
  cat "$work/leaf.crt" ca.crt >"$work/$file.crt"
  [ "$key" = "$file.key" ] || mv -- "$key" "$file.key"
  chmod 600 -- "$file.key"
  mv -- "$work/$file.crt" "$file.crt"
  chmod 644 -- "$file.crt"
}

if [ -e ca.key ] && [ -e ca.crt ]; then
  check_ca
elif [ -e ca.key ] || [ -e ca.crt ]; then
  fail "$out holds only one of ca.key and ca.crt: bring the other or move it away"
else
  make_ca
fi
chmod 600 ca.key
chmod 644 ca.crt

if [ -n "$alt_names" ]; then
  # A common name holds 64 characters; verifiers read the alternative names anyway.
  common_name=gateway
  [ ${#names[0]} -gt 64 ] || common_name=${names[0]}
  did=made
  [ ! -e gateway.crt ] || did=renewed
  issue gateway "$common_name" serverAuth "$alt_names"
  echo "$did $out/gateway.crt for ${names[*]}, valid for $days days"
fi
for client in "${clients[@]}"; do
  issue "$client" "$client" clientAuth ""
  echo "made $out/$client.crt for the client $client, valid for $days days"
done
