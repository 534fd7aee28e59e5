"""Tests of the harness itself: what the other tests rest on."""
import hashlib
import pathlib
import socket
import ssl
import subprocess
import sys
import threading

import pytest

from harness import (Blackhole, Discard, Echo, LinkProxy, PortRange, Process, RefusedPort, Reset, Sink, Source, connect,
                     echo_all, expect_open, expect_reset, how_closed, how_visit_ends, open_many, port_is_free,
                     random_payload, recv_all, recv_exact, round_trip, send_until_blocked, wait_all_closed, wait_until)
from harness.certs import PROJECT, make

LAYERING = PROJECT / "tests/layering.py"


@pytest.fixture
def opened():
    """Closes at the end what a test adds to it, and returns that."""
    things = []

    def add(thing):
        things.append(thing)
        return thing
    yield add
    for thing in reversed(things):
        thing.close()


# Ports

def test_port_ranges_do_not_overlap_and_are_free():
    ranges = [PortRange(30) for _ in range(20)]
    try:
        ports = [port for one in ranges for port in one]
        assert len(set(ports)) == len(ports) == 600
        assert all(port_is_free(port) for port in ports)
    finally:
        for one in ranges:
            one.release()


def test_a_port_that_is_listened_on_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not port_is_free(listener.getsockname()[1])


# Targets and visitors

def test_echo_keeps_half_close(opened):
    echo = opened(Echo())
    payload = random_payload(4 << 20)
    assert round_trip(echo.port, payload) == payload
    visitor = opened(connect(echo.port))
    visitor.sendall(b"last words")
    visitor.shutdown(socket.SHUT_WR)
    assert recv_all(visitor) == b"last words"
    wait_until(lambda: echo.stats.open == 0)
    assert (echo.stats.accepted, echo.stats.fins, echo.stats.resets) == (2, 2, 0)


def test_echo_serves_a_crowd(opened):
    echo = opened(Echo())
    visitors = [opened(v) for v in open_many(echo.port, 200)]
    echo_all(visitors, random_payload(20_000))
    echo.reset_all()
    assert wait_all_closed(visitors) == ["reset"] * 200


def test_sink_blocks_its_sender_until_drained(opened):
    sink = opened(Sink())
    visitor = opened(connect(sink.port))
    sent = send_until_blocked(visitor, 64 << 20, quiet=0.2)
    assert 0 < sent < 64 << 20 and sink.stats.bytes_in == 0
    sink.drain()
    wait_until(lambda: sink.stats.bytes_in == sent)


def test_source_speaks_first_and_ends(opened):
    source = opened(Source(b"0123456789", total=25))
    assert recv_all(opened(connect(source.port))) == b"0123456789012345678901234"
    greeter = opened(Source(b"220 ready\r\n", then_fin=False))
    visitor = opened(connect(greeter.port))
    assert recv_exact(visitor, 11) == b"220 ready\r\n"
    expect_open(visitor)


def test_discard_tells_what_it_got(opened):
    discard = opened(Discard())
    payload = random_payload(1 << 20)
    assert round_trip(discard.port, payload) == b""
    assert discard.digests == [hashlib.sha256(payload).hexdigest()]


def test_reset_refused_and_hanging_targets(opened):
    visitor = opened(connect(opened(Reset(on_first_data=True)).port))
    visitor.sendall(b"x")
    expect_reset(visitor)
    with pytest.raises(ConnectionRefusedError):
        connect(opened(RefusedPort()).port)
    with pytest.raises(TimeoutError):
        connect(opened(Blackhole()).port, timeout=0.3)


# The proxy of the link

def test_link_proxy_forwards_cuts_and_freezes(opened):
    echo = opened(Echo())
    proxy = opened(LinkProxy(echo.port))
    payload = random_payload(4 << 20)
    assert round_trip(proxy.port, payload) == payload

    visitor = opened(connect(proxy.port))
    visitor.sendall(b"before")
    assert recv_exact(visitor, 6) == b"before"
    proxy.freeze()
    visitor.sendall(b"during")
    assert how_closed(visitor, 0.2) == "open" and echo.stats.bytes_in == len(payload) + 6
    proxy.thaw()
    assert recv_exact(visitor, 6) == b"during"

    proxy.cut(serve_again=False)
    expect_reset(visitor)
    wait_until(lambda: echo.stats.open == 0)
    assert how_visit_ends(proxy.port) == "reset"
    proxy.mend()
    assert round_trip(proxy.port, b"again") == b"again"


# Processes

def script(tmp_path, text):
    return Process("script", [sys.executable, "-u", "-c", text], tmp_path)


def test_wait_event_finds_fields_and_gives_up(tmp_path):
    process = script(tmp_path, """
import json, sys
print("no JSON", file=sys.stderr)
for n in range(3):
    print(json.dumps({"event": "tick", "n": n}), file=sys.stderr)
sys.stdin.read()
""")
    process.start()
    assert process.wait_event("tick", n=2)["n"] == 2
    assert process.wait_event("tick", count=2)["n"] == 1
    assert process.wait_event("tick", n=lambda n: n > 0)["n"] == 1
    process.expect_exit(0)
    assert "no JSON" in process.lines
    with pytest.raises(AssertionError, match="ended with 0"):
        process.wait_event("tock")
    assert process.finish() == process.problems() == []


@pytest.mark.parametrize("line", [
    "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010",
    "src/x.c:3:5: runtime error: signed integer overflow",
    "==7==ERROR: LeakSanitizer: detected memory leaks",
    "WARNING: ThreadSanitizer: data race (pid=7)",
    "posternd: src/x.c:3: x_close: Assertion `x' failed.",
])
def test_bad_lines_are_problems(tmp_path, line):
    process = script(tmp_path, f"print({line!r})").start()
    process.expect_exit(0)
    assert process.problems()


def test_a_program_that_ends_by_itself_or_badly_is_a_problem(tmp_path):
    process = script(tmp_path, "raise SystemExit(3)").start()
    wait_until(lambda: not process.running)
    assert "ended by itself with 3" in process.finish()[0]
    stubborn = script(tmp_path, "import signal; signal.signal(15, lambda *_: exit(5)); print('up'); signal.pause()")
    stubborn.start().wait_line("^up$")
    assert "ended with 5, not 0" in stubborn.finish()[0]


# Certificates and the layering check

def verify(certs, crt, key, name="127.0.0.1"):
    """Whether a client that trusts certs.ca accepts a server with the certificate; the error otherwise."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(crt, key)
    near, far = socket.socketpair()

    def serve():
        try:
            with server.wrap_socket(far, server_side=True):
                pass
        except OSError:
            pass  # the client turned away
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with certs.client_context().wrap_socket(near, server_hostname=name):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        near.close()
        thread.join()


def test_certificates_are_what_they_say(certs):
    assert verify(certs, certs.crt, certs.key) is None
    assert verify(certs, certs.crt, certs.key, "localhost") is None
    assert "has expired" in verify(certs, *certs.expired())
    assert "IP address mismatch" in verify(certs, *certs.gateway_for("elsewhere.example"))
    assert "unable to get local issuer" in verify(certs, certs.other().crt, certs.other().key) or \
        "self-signed certificate in certificate chain" in verify(certs, certs.other().crt, certs.other().key)


def test_make_certs_keeps_its_authority_and_its_keys(tmp_path):
    def contents(*names):
        return [(tmp_path / name).read_bytes() for name in names]
    make(tmp_path, "localhost")
    first, certificate = contents("ca.crt", "ca.key", "gateway.key"), contents("gateway.crt")
    make(tmp_path, "localhost", "127.0.0.1")
    assert contents("ca.crt", "ca.key", "gateway.key") == first and contents("gateway.crt") != certificate
    make(tmp_path, "--client", "alice")
    assert contents("ca.crt", "ca.key", "gateway.key") == first
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*.key"))
    assert contents("gateway.crt")[0].endswith(first[0])


@pytest.mark.parametrize("arguments", [[], ["--days", "0", "x"], ["under_score"], ["300.1.1.1"], ["--nonsense"],
                                       ["--client", "Upper"], ["--client", "gateway"], ["--days"]])
def test_make_certs_refuses_bad_usage(tmp_path, arguments):
    done = subprocess.run([PROJECT / "certs/make-certs.sh", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path, text, complaint", [
    ("include/postern/wire/bad.h", '#include "postern/net/loop.h"', "wire may not include net"),
    ("include/postern/wire/bad.h", "#include <event2/event.h>", "wire must not touch it"),
    ("include/postern/wire/bad.h", "size_t too_soon(void);", "does not compile alone"),
    ("src/base/bad.c", '#include "bad.h"', "own headers are included as"),
    ("src/net/bad.c", "#include <lmdb.h>", "the store alone knows LMDB"),
    ("src/core/bad.c", '#include "postern/store/shows.h"', "it shows LMDB outside the store"),
    ("src/agent/bad.c", '#include "postern/relay/tcp.h"', "agent may not include relay"),
])
def test_layering_finds_violations(tmp_path, path, text, complaint):
    files = {"include/postern/base/fine.h": "#pragma once\n", "include/postern/net/loop.h": "#pragma once\n",
             "include/postern/store/shows.h": "#pragma once\n#include <lmdb.h>\n",
             "include/postern/relay/tcp.h": "#pragma once\n", "src/base/fine.c": '#include "postern/base/fine.h"\n'}

    def check():
        return subprocess.run([sys.executable, LAYERING, "--root", tmp_path], capture_output=True, text=True)
    for name, content in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert check().returncode == 0, check().stdout
    bad = pathlib.Path(tmp_path, path)
    bad.parent.mkdir(parents=True, exist_ok=True)
    bad.write_text(text + "\n")
    done = check()
    assert done.returncode == 1 and complaint in done.stdout and path in done.stdout, done.stdout
