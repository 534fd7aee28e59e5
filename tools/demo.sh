#!/usr/bin/env bash
# Shows Postern at work on one machine: builds it, starts a gateway, sample services and an agent for each, fetches a
# page through one tunnel and has a datagram echoed through another. Everything it makes, but for the build, lies in a folder that it removes.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: tools/demo.sh [--once]

Builds Postern and publishes a sample web page through a gateway on this machine.
  --once   end after the page was fetched through the tunnel, with status 0 when all went well
Without --once it stays, says how to try it by hand, and ends on Ctrl-C.
TEXT
}

once=false
case "${1-}" in
'') ;;
--once) once=true ;;
-h | --help) usage && exit 0 ;;
*)
  echo "demo.sh: unknown argument: $1 (see --help)" >&2
  exit 2
  ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/build/release/bin
python=/usr/bin/python3
patience=20 # seconds to wait for a program

step() { printf '\n== %s\n' "$1"; }
say() { printf '   %s\n' "$1"; }
fail() {
  printf '\ndemo.sh: %s\n' "$1" >&2
  exit 1
}

work=$(mktemp -d) pids=()
finish() {
  local status=$? pid log
  trap - EXIT
  trap '' INT TERM
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  for log in "$work"/*.log; do
    [ "$status" -eq 1 ] && [ -s "$log" ] || continue
    printf -- '--- %s, last lines:\n' "${log##*/}" >&2
    tail -n 20 "$log" >&2
  done
  rm -rf -- "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start LOG COMMAND...: runs a program in the background, its log in LOG; $started is its process id. A session of its
# own keeps Ctrl-C away from it: finish stops the programs, one after the other.
start() {
  local log=$1
  shift
  setsid "$@" >"$log" 2>&1 </dev/null &
  started=$!
  pids=("$started" "${pids[@]}") # what was started last is stopped first
}

# wait_event PID LOG EVENT FIELD: waits for an event in a JSON log and prints one of its fields.
wait_event() {
  "$python" - "$@" "$patience" <<'PYTHON'
import json, os, sys, time
pid, log, event, field, patience = sys.argv[1:]

def runs():
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

deadline = time.monotonic() + float(patience)
while True:
    last_look = not runs() or time.monotonic() > deadline
    for line in open(log, errors="replace"):
        if line.startswith("{") and line.endswith("}\n"):
            found = json.loads(line)
            if found.get("event") == event:
                print(found[field])
                sys.exit(0)
    if last_look:
        sys.exit(1)
    time.sleep(0.02)
PYTHON
}

# Takes a process that has ended off the list of those that finish stops.
forget() {
  local pid left=()
  for pid in "${pids[@]}"; do
    [ "$pid" = "$1" ] || left+=("$pid")
  done
  pids=("${left[@]}")
}

# stop NAME PID: ends a program as an operator would and insists on its status 0.
stop() {
  local name=$1 pid=$2 status=0
  kill -TERM "$pid" || fail "the $name has ended by itself"
  wait "$pid" || status=$?
  forget "$pid"
  [ "$status" -eq 0 ] || fail "the $name ended with status $status"
  say "The $name has stopped."
}

step "Packages and build (preset release)"
"$root/tools/packages.sh" build
(cd "$root" && cmake --preset release -DBUILD_TESTING=OFF && cmake --build --preset release) >"$work/build.log" 2>&1 ||
  fail "the build failed"
say "The programs are in ${bin#"$root"/}."

cd "$work"
umask 077
step "A certificate authority and the gateway's certificate, for 127.0.0.1 alone"
"$root/certs/make-certs.sh" --out certs --days 2 --ca-days 3 localhost 127.0.0.1 >/dev/null

step "A gateway"
cat >gateway.json <<'JSON'
{
  "control": { "listen": ["127.0.0.1:0"] },
  "tls": { "certificate": "certs/gateway.crt", "key": "certs/gateway.key" },
  "tunnels": { "address": "127.0.0.1", "ports": "20000-29999" }
}
JSON
start gateway.log "$bin/posternd" -c gateway.json --log json
gateway=$started
control_port=$(wait_event "$gateway" gateway.log gateway.listen port) || fail "the gateway does not start"
wait_event "$gateway" gateway.log gateway.ready event >/dev/null || fail "the gateway does not get ready"
say "It listens on 127.0.0.1:$control_port for agents, over TLS."

step "A user, and a token for its agent"
ctl=("$bin/posternctl" -c gateway.json)
user_id=$("${ctl[@]}" user add demo) || fail "the user was not added"
"${ctl[@]}" token create demo --enrol "127.0.0.1:$control_port" >enrol || fail "the token was not made"
say "The user demo has the id $user_id. Its enrolment line (gateway, pinned key, token) is in a file of mode 0600."

step "A web service that only this machine knows"
mkdir page
printf 'Hello from the service behind the agent.\n' >page/index.html
cat >service.py <<'PYTHON'
import functools, http.server, json
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="page")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(json.dumps({"event": "listen", "port": server.server_port}), flush=True)
server.serve_forever()
PYTHON
start service.log "$python" service.py
service=$started
service_port=$(wait_event "$service" service.log listen port) || fail "the sample service does not start"
say "It listens on 127.0.0.1:$service_port."

step "A UDP echo beside it"
cat >echo.py <<'PYTHON'
import json, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
print(json.dumps({"event": "listen", "port": sock.getsockname()[1]}), flush=True)
while True:
    sock.sendto(*sock.recvfrom(65507))
PYTHON
start echo.log "$python" echo.py
echo=$started
echo_port=$(wait_event "$echo" echo.log listen port) || fail "the sample echo does not start"
say "It listens on 127.0.0.1:$echo_port."

step "An agent that publishes the page"
start agent.log "$bin/postern" tcp "127.0.0.1:$service_port" --name page --enrol-file enrol --log json
agent=$started
public_port=$(wait_event "$agent" agent.log tunnel.open port) || fail "the agent does not open its tunnel"
say "It has verified the gateway and logged in. The public port is $public_port:"
say "visitor -> 127.0.0.1:$public_port -> gateway == TLS == agent -> 127.0.0.1:$service_port"

step "A visit to the public port"
fetched=$("$python" -c '
import sys, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.stdout.write(direct.open(sys.argv[1], timeout=10).read().decode())
' "http://127.0.0.1:$public_port/") || fail "nothing answers on the public port"
[ "$fetched" = "$(cat page/index.html)" ] || fail "the page differs from the service's: $fetched"
say "Fetched through the tunnel: $fetched"

step "Another agent, in one line, for the echo, and a datagram of 65,507 bytes there and back"
start echo-agent.log "$bin/postern" udp "$echo_port" --name echo --instance echo --enrol-file enrol --log json
echo_agent=$started
udp_port=$(wait_event "$echo_agent" echo-agent.log tunnel.open port) || fail "the agent does not open its UDP tunnel"
"$python" -c '
import os, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", int(sys.argv[1])))
sock.settimeout(2)
datagram = os.urandom(65507)
for left in (2, 1, 0):
    sock.send(datagram)
    try:
        sys.exit(sock.recv(70000) != datagram)
    except TimeoutError:
        pass
sys.exit(1)
' "$udp_port" || fail "the datagram did not come back from the public UDP port"
say "Echoed through the tunnel, whole. The public port is $udp_port."

if ! "$once"; then
  step "It stays like this until Ctrl-C, which stops everything and removes $work"
  say "Try:  curl http://127.0.0.1:$public_port/"
  say "      nc -u 127.0.0.1 $udp_port      (and type)"
  say "      cd $work"
  say "      $bin/posternctl -c gateway.json session list"
  say "      $bin/posternctl -c gateway.json user ban demo --reason 'just a test'"
  say "      tail -f gateway.log agent.log echo-agent.log"
  trap 'printf "\n"; exit 0' INT
  wait -n "$gateway" "$service" || true
  fail "the gateway or the service has ended by itself"
fi

step "The end"
stop agent "$agent"
stop "agent of the echo" "$echo_agent"
stop gateway "$gateway"
say "All went well."
