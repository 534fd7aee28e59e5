"""NSP clients that cannot speak TLS: only where the operator says so, on loopback unless he insists."""
import itertools

import pytest

from harness import Dialer, connect, echo_all, how_closed, port_is_free, random_payload
from harness.nsp_wire import (ACK, AUTH_FAILED, ERROR_AUTH, ERROR_BANNED, NEW_APPS, App, close_client, disconnect,
                              heartbeat, ids, parse_answer, read_to_end)
from nsp_scene import Scene, cuts, expect_no_event, expect_unharmed, in_parallel


@pytest.fixture
def scene(lab):
    return Scene(lab, users=("alice", "bob"), plaintext=True)


@pytest.mark.tsan
def test_a_client_without_tls(scene):
    client = scene.client(plaintext=True, apps=[scene.echo, scene.echo])
    assert client.client_id == scene.ids["alice"]
    payload = random_payload(2 << 20)
    echo_all(scene.lab.visits(client.port, 2) + scene.lab.visits(client.ports[1], 2), payload)
    expect_unharmed(client, 10)
    listed = scene.gateway.sessions()
    assert [(s["protocol"], s["instance"]) for s in listed] == [("nsp", "nsp")]


@pytest.mark.tsan
def test_byte_by_byte_and_truncated(scene):
    request, dialer = scene.request(NEW_APPS, [App(), App()]), scene.dialer(plaintext=True)

    def leave(cut):
        with dialer.control() as sock:
            sock.sendall(request[:cut])
            sock.shutdown(1)
            return read_to_end(sock)
    places = cuts(request, 100)
    with scene.no_descriptor_lost():
        assert in_parallel(leave, places) == [b""] * len(places)
    client_id, apps = parse_answer(dialer.ask(request, pieces=1))
    assert client_id == scene.ids["alice"] and [app for app, _ in apps] == [1, 2]
    assert dialer.ask(heartbeat(client_id), pieces=1) == ACK
    opening = scene.opening() + ids(client_id, 1)
    with dialer.reverse() as sock:
        for byte in opening:
            sock.sendall(bytes([byte]))
        assert sock.recv(1) == b"\1"
        visitor = scene.lab.visit(apps[0][1])
        visitor.sendall(b"hello")
        message = b""
        while len(message) < 15:
            message += sock.recv(15 - len(message))
        assert message == b"\1" + message[1:5] + bytes(5) + b"hello"


def test_the_token_counts(scene):
    dialer = scene.dialer(plaintext=True)
    assert dialer.ask(scene.request(NEW_APPS, [App()] * 3, token="A" * 24)) == ERROR_AUTH
    assert dialer.ask(scene.wire.opening("A" * 24), reverse=True) == AUTH_FAILED
    scene.gateway.ctl("user", "ban", "alice")
    assert dialer.ask(scene.request(NEW_APPS)) == ERROR_BANNED
    assert dialer.ask(scene.opening(), reverse=True) == AUTH_FAILED


@pytest.mark.tsan
def test_nobody_has_proof_here(scene):
    """Heartbeats by the registering address, closes as hints, disconnects never."""
    client = scene.client(plaintext=True)
    visitor = scene.lab.visit(client.port)
    echo_all([visitor], b"hello")
    transfer = client.wait_event("tunnel")["id"]
    elsewhere = scene.dialer(plaintext=True, source="127.0.0.2")
    assert elsewhere.ask(heartbeat(client.client_id)) == b"" and client.heartbeat()
    for dialer in (scene.dialer(plaintext=True), elsewhere, scene.dialer()):
        assert dialer.ask(disconnect(transfer)) == b""
        assert dialer.ask(close_client(client.client_id)) == b""
    expect_no_event(scene.gateway, "visitor.close", 2.5)
    echo_all([visitor], b"still here")
    expect_unharmed(client)


def test_takeover_between_tls_and_plaintext(scene):
    clients = [scene.client(plaintext=True), scene.client(login=False), scene.client(plaintext=True, login=False)]
    port = clients[0].port
    for older, newer in itertools.pairwise(clients):
        visitor = scene.lab.visit(port)
        echo_all([visitor], b"hello")
        assert newer.login().port == port
        assert how_closed(visitor) == "reset"
        older.wait_event("stopped")
        expect_unharmed(newer)
    assert len(scene.gateway.sessions()) == 1


def test_another_users_token_attaches_nothing(scene):
    alice = scene.client(plaintext=True)
    scene.client("bob", plaintext=True)
    alice.drop_idle()
    for plaintext in (True, False):
        with scene.dialer(plaintext=plaintext).reverse() as sock:
            sock.sendall(scene.opening("bob") + ids(alice.client_id, 1))
            assert read_to_end(sock, allow_reset=True) in (b"\0", b"\1")
    visitor = scene.lab.visit(alice.port)
    alice.open_reverse()
    echo_all([visitor], b"hers")
    expect_unharmed(alice)


# Only where the operator says so

def warned_of(gateway):
    return {event["port"] for event in gateway.events_of("gateway.plaintext", level="warn")}


def test_each_start_warns(scene):
    ports = {scene.gateway.plain_port, scene.gateway.plain_reverse_port, scene.gateway.plain_web_port}
    assert warned_of(scene.gateway) == ports
    scene.gateway.restart()
    assert warned_of(scene.gateway) == ports


def test_no_warning_and_no_listener_by_default(lab):
    gateway = lab.gateway()
    listening = {event["port"] for event in gateway.events_of("gateway.listen")}
    assert listening == {gateway.port, gateway.reverse_port, gateway.web_port} and not warned_of(gateway)


def test_beyond_loopback_only_when_insisted(lab):
    gateway = lab.gateway(start=False)
    port = gateway.ports[0]
    for what in ("control", "reverse", "web"):
        gateway.write_config(nsp={"plaintext": None})
        gateway.write_config(nsp={"plaintext": {what: f"0.0.0.0:{port}"}})
        gateway.start(ready=False).expect_exit(2)
        line = gateway.lines[-1]
        assert f"nsp.plaintext.{what}" in line and "loopback" in line and "insecure" in line
        gateway.write_config(nsp={"plaintext": {"insecure": True}})
        gateway.start()
        assert not port_is_free(port) and warned_of(gateway) == {port}
        gateway.stop()


def test_each_port_stays_what_it_is(scene):
    """Plaintext on a TLS port and TLS on a plaintext port end; nobody is served by mistake."""
    request = scene.request(NEW_APPS)
    with connect(scene.gateway.port) as sock:
        sock.sendall(request)
        assert scene.ids["alice"].to_bytes(2, "big") + b"\1" not in read_to_end(sock, allow_reset=True)
    crossed = Dialer(scene.gateway)
    with connect(scene.gateway.plain_port) as raw, pytest.raises(OSError):
        crossed.context.wrap_socket(raw, server_hostname="localhost")
    assert scene.gateway.sessions() == []
