"""Strangers on the control port, and descriptors that run out: agents and visitors are served all the same."""
import resource
import socket
import ssl
import struct
import threading
import time

import pytest

from harness import (abort, connect, cpu_seconds, echo_all, fd_count, how_closed, how_visit_ends, round_trip, scaled,
                     tcp, wait_all_closed, wait_until)

HANDSHAKE = 2
HELLO_OF_4096 = struct.pack("!BBHI", 1, 0, 4096, 0)  # the header of a control message


def client_hello(certs):
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certs.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def silent(gateway, certs):
    return connect(gateway.port)


def half_a_client_hello(gateway, certs):
    sock = connect(gateway.port)
    hello = client_hello(certs)
    sock.sendall(hello[:len(hello) // 2])
    return sock


def whole_client_hello(gateway, certs):
    sock = connect(gateway.port)
    sock.sendall(client_hello(certs))
    return sock


def silent_in_tls(gateway, certs):
    return certs.client_context().wrap_socket(connect(gateway.port), server_hostname="localhost",
                                              suppress_ragged_eofs=False)


def half_a_message(gateway, certs):
    sock = silent_in_tls(gateway, certs)
    sock.sendall(HELLO_OF_4096 + b"{")
    return sock


def ends_of(socks, timeout):
    """Waits until all have ended, TLS or not; how long the first and the last one took, and how many were left."""
    began = time.monotonic()
    raw = [socket.socket(fileno=sock.detach()) for sock in socks]
    ends = wait_all_closed(raw, timeout)
    for sock in raw:
        sock.close()
    return ends, time.monotonic() - began


@pytest.mark.parametrize("stranger", [silent, half_a_client_hello, whole_client_hello, silent_in_tls, half_a_message])
def test_a_crowd_of_strangers_is_closed_in_time_and_stops_nobody(lab, certs, stranger):
    gateway, echo = lab.gateway(limits={"handshake_seconds": HANDSHAKE}), lab.echo()
    token = gateway.token_for("alice")
    resting = fd_count(gateway.pid)
    began = time.monotonic()
    crowd = [stranger(gateway, certs) for _ in range(300)]
    came = time.monotonic()
    agent = lab.agent(gateway, token, [tcp("echo", echo)])
    assert round_trip(agent.port_of("echo", timeout=1.5), b"served") == b"served"
    if came - began < HANDSHAKE:
        assert fd_count(gateway.pid) > 300, "the strangers are gone too early"
    _, took = ends_of(crowd, HANDSHAKE + 1)
    assert time.monotonic() - began >= HANDSHAKE
    assert took < scaled(HANDSHAKE + 0.75)
    gateway.wait_event("auth.fail", reason="handshake", count=300)
    wait_until(lambda: fd_count(gateway.pid) < resting + 10, 3)
    assert round_trip(agent.port_of("echo"), b"still") == b"still"


def test_a_stranger_who_sends_a_byte_at_a_time_gets_no_longer(lab, certs):
    gateway = lab.gateway(limits={"handshake_seconds": HANDSHAKE})
    began = time.monotonic()
    in_tls = [silent_in_tls(gateway, certs) for _ in range(20)]
    plain, hello = [connect(gateway.port) for _ in range(20)], client_hello(certs)
    message = HELLO_OF_4096 + b'{"type":"hello"' + b" " * 4000
    over = threading.Event()

    def drip():
        for at in range(200):
            for sock, data in [(s, message) for s in in_tls] + [(s, hello) for s in plain]:
                try:
                    sock.send(data[at:at + 1])
                except OSError:
                    pass  # closed meanwhile
            if over.wait(0.05):
                return
    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        gateway.wait_event("auth.fail", reason="handshake", count=40, timeout=HANDSHAKE + 1.5)
        assert time.monotonic() - began >= HANDSHAKE
    finally:
        over.set()
        thread.join(scaled(10))
    assert all(how_closed(sock, 1) != "open" for sock in plain)
    assert gateway.events_of("auth.fail", msg="no hello in time") and gateway.events_of("auth.fail", msg="no TLS handshake in time")


@pytest.mark.parametrize("data", [
    pytest.param(b"GET / HTTP/1.1\r\nHost: gateway.example.com\r\n\r\n", id="http"),
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(100), id="ssh"),
    pytest.param(b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff", id="broken handshake"),
    pytest.param(b"\x16\x03\x01\xff\xff" + bytes(5000), id="oversized record"),
    pytest.param(b"\x00" * 4096, id="zeros"),
])
def test_what_is_not_tls_is_refused(lab, gateway, data):
    mark = gateway.mark()
    assert how_visit_ends(gateway.port, data) in ("fin", "reset")
    failed = gateway.wait_event("auth.fail", since=mark)
    assert failed["reason"] == "handshake" and failed["msg"]
    assert failed["peer"].startswith("127.0.0.1:")


def refusal(certs, gateway, change):
    """What the client is told when it connects with a changed context."""
    context = certs.client_context(alpn=())
    change(context)
    with connect(gateway.port) as sock:
        try:
            with context.wrap_socket(sock, server_hostname="localhost") as tls:
                tls.recv(1)  # in TLS 1.3 the client is through before the gateway has judged
        except ssl.SSLError as error:
            return str(error)
        except OSError as error:
            return str(error)
    return None


def tls_1_1(context):
    context.set_alpn_protocols(["postern/1"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("change, told, logged", [
    pytest.param(lambda c: c.set_alpn_protocols(["h2"]), "no application protocol", "ALPN", id="wrong ALPN"),
    pytest.param(tls_1_1, "protocol version", "unsupported protocol", id="TLS 1.1"),
])
def test_a_client_that_speaks_something_else_is_refused(gateway, certs, change, told, logged):
    assert told in refusal(certs, gateway, change)
    failed = gateway.wait_event("auth.fail")
    assert failed["reason"] == "handshake" and logged in failed["msg"]


def test_without_nsp_a_client_must_name_its_protocol(lab, certs):
    gateway = lab.gateway(nsp={"enabled": False})
    assert "no application protocol" in refusal(certs, gateway, lambda c: None)
    failed = gateway.wait_event("auth.fail")
    assert failed["reason"] == "handshake" and "ALPN" in failed["msg"]
    assert [e["what"] for e in gateway.events_of("gateway.listen")] == ["control"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_versions_that_are_spoken(gateway, certs, version):
    context = certs.client_context()
    context.minimum_version = context.maximum_version = version
    with context.wrap_socket(connect(gateway.port), server_hostname="localhost") as tls:
        assert tls.selected_alpn_protocol() == "postern/1"


def test_a_refused_caller_who_sends_on_and_resets(lab, certs):
    """The gateway waits a moment for him to read why; data and a reset that it sees at once are nobody's any more."""
    gateway = lab.gateway()
    resting = fd_count(gateway.pid)
    caller = silent_in_tls(gateway, certs)
    caller.sendall(struct.pack("!BBHI", 8, 0, 8, 0) + bytes(8))  # a ping is no hello
    assert gateway.wait_event("auth.fail")["reason"] == "malformed"
    assert b"the first frame is of type 8" in caller.recv(4096)
    gateway.freeze()
    caller.sendall(b"x" * 100)
    abort(socket.socket(fileno=caller.detach()))
    gateway.thaw()
    wait_until(lambda: fd_count(gateway.pid) == resting)


# Descriptors

def limit_descriptors(program, more):
    """Leaves the program `more` descriptors; returns a function that lifts the limit."""
    _, hard = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (fd_count(program.pid) + more, hard))
    return lambda: resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (hard, hard))


def test_a_gateway_without_descriptors_rests_and_recovers(lab):
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    agent = lab.agent(gateway, token, [tcp("echo", echo)])
    port = agent.port_of("echo")
    live = lab.visits(port, 5)
    echo_all(live, b"live")
    limit_descriptors(gateway, more=10)
    crowd = lab.visits(port, 50)
    strangers = lab.visits(gateway.port, 20)  # the control port has none either
    gateway.wait_event("listener.rest", address=f"127.0.0.1:{port}")
    gateway.wait_event("listener.rest", address=f"127.0.0.1:{gateway.port}")

    # Two more rests, and no spinning between them; those who are in go on.
    before, mark = cpu_seconds(gateway.pid), gateway.mark()
    gateway.wait_event("listener.rest", since=mark, address=f"127.0.0.1:{port}", count=2, timeout=4)
    assert cpu_seconds(gateway.pid) - before < 0.5
    assert len(gateway.events_of("listener.rest")) < 12
    echo_all(live, b"still live")

    for sock in strangers + live:
        abort(sock)
    echo_all(crowd[:8], b"next")  # as descriptors come back, those who wait are let in
    for sock in crowd[:40]:
        abort(sock)
    echo_all(crowd[40:], b"and the rest")
    for sock in crowd[40:]:
        abort(sock)
    late = lab.agent(gateway, token, [tcp("echo", echo)], instance="late")
    assert round_trip(late.port_of("echo"), b"late") == b"late"


def test_an_agent_without_descriptors_refuses_and_recovers(lab):
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo)])
    port = agent.port_of("echo")
    live = lab.visits(port, 5)
    echo_all(live, b"live")
    lift = limit_descriptors(agent, more=3)
    crowd = lab.visits(port, 20)
    gateway.wait_event("visitor.close", reason="internal", count=17)
    echo_all(live, b"still live")
    lift()
    assert round_trip(port, b"again") == b"again"
    assert sorted(how_closed(sock, 0.05) for sock in crowd) == ["open"] * 3 + ["reset"] * 17
    assert not gateway.events_of("session.close")
