"""NSP's control channel, byte by byte: logins, heartbeats, closes, and everything cut short or in single bytes."""
import itertools
import select
import socket
import ssl
import struct
import time

import pytest

from harness import connect, port_is_free, scaled, wait_until
from harness.nsp_wire import (ACK, ERROR_AUTH, ERROR_BANNED, ERROR_OTHER, HTTP, NEW_APPS, RECONNECT, UDP, App,
                              close_client, disconnect, expect_end, expect_nothing, heartbeat, parse_answer,
                              read_to_end, send_fin)
from nsp_scene import Scene, cuts, expect_unharmed, in_parallel

@pytest.fixture
def scene(lab):
    return Scene(lab)


# Login

@pytest.mark.tsan
def test_login_gives_ids_and_ports(scene):
    gateway, dialer, alice = scene.gateway, scene.dialer(), scene.ids["alice"]
    apps = [App(gateway.ports[4], description="plain tcp"), App(0), App(gateway.ports[9], host="ignored.test")]
    for op, pieces in itertools.product((NEW_APPS, RECONNECT), (None, 1)):
        since = gateway.mark()
        answer = dialer.ask(scene.request(op, apps, client_id=alice if op == RECONNECT else 0), pieces)
        client_id, assigned = parse_answer(answer)
        assert client_id == alice and [app_id for app_id, _ in assigned] == [1, 2, 3]
        ports = [port for _, port in assigned]
        assert (ports[0], ports[2]) == (gateway.ports[4], gateway.ports[9]) and ports[1] in gateway.ports
        opened = [gateway.wait_event("tunnel.open", since=since, user="alice", protocol="tcp", count=n)
                  for n in (1, 2, 3)]
        assert [event["port"] for event in opened] == ports and not any(map(port_is_free, ports))
        session = gateway.wait_event("session.open", since=since, user="alice", protocol="nsp")
        assert session["peer"].startswith("127.0.0.1:")
        assert {event["session"] for event in opened} == {session["session"]}
        listed = gateway.sessions()
        wanted = {"id": session["session"], "user": "alice", "instance": "nsp", "protocol": "nsp", "visitors": 0,
                  "tunnels": 3, "peer": session["peer"], "bytes_in": 0, "bytes_out": 0}
        assert len(listed) == 1 and listed[0] | wanted == listed[0]
        assert dialer.ask(heartbeat(client_id), pieces) == ACK


def test_the_answer_comes_in_one_piece(lab):
    scene = Scene(lab, ports=262)
    scene.gateway.ctl("user", "limit", "alice", "--tunnels", "255")
    answer = scene.dialer().login(scene.request(NEW_APPS, [App()] * 255))
    client_id, assigned = parse_answer(answer)
    assert len(answer) == 767 and client_id == scene.ids["alice"]
    assert [app_id for app_id, _ in assigned] == list(range(1, 256)) and len({port for _, port in assigned}) == 255


def test_each_version_of_tls(scene):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = scene.client(version=version)
        assert client.port in scene.gateway.ports and client.heartbeat() and client.dialer.session


def answer_after_the_last_byte(scene, request):
    """Asserts that nothing comes before the request is whole, and that a FIN and no reset follows the answer."""
    dialer = scene.dialer()
    with dialer.control() as sock:
        sock.sendall(request[:-1])
        dialer.ask(heartbeat(0))  # answered later than what could be answered already
        expect_nothing(sock)
        sock.sendall(request[-1:])
        return read_to_end(sock)


def revoked(scene):
    token = scene.gateway.create_token("alice")
    scene.gateway.ctl("token", "revoke", token.split("_")[1])
    return token


BAD_TOKENS = {
    "garbage": lambda scene: "AAAAAAAAAAAAAAAAAAAAAA==", "empty": lambda scene: "",
    "notoken": lambda scene: "notoken", "long": lambda scene: "x" * 4096, "revoked": revoked,
    "half": lambda scene: scene.tokens["alice"][:-1], "longer": lambda scene: scene.tokens["alice"] + "A",
}


@pytest.mark.tsan
def test_a_bad_token_is_answered_with_03(scene):
    for kind, make in BAD_TOKENS.items():
        token = make(scene)
        for op in (NEW_APPS, RECONNECT):
            since = scene.gateway.mark()
            assert answer_after_the_last_byte(scene, scene.request(op, [App()] * 2, token=token)) == ERROR_AUTH, kind
            scene.gateway.wait_event("auth.fail", since=since, peer=lambda p: p.startswith("127.0.0.1:"))
    assert scene.gateway.events_of("session.open") == []


def test_an_expired_token_is_answered_with_03(scene):
    token = scene.gateway.create_token("alice", expires="1s")
    request = scene.request(NEW_APPS, token=token)
    wait_until(lambda: scene.dialer().ask(request) == ERROR_AUTH, 5, "the token has expired")
    wait_until(lambda: not scene.gateway.sessions(), 5, "its session has ended")
    # The 03 above may have been that of a session which expired before it was answered.
    assert scene.dialer().ask(request) == ERROR_AUTH
    scene.gateway.wait_event("auth.fail", user="alice", reason="expired")


def test_a_banned_user_is_answered_with_04(scene):
    scene.gateway.ctl("user", "ban", "alice")
    for op in (NEW_APPS, RECONNECT):
        assert answer_after_the_last_byte(scene, scene.request(op, [App()] * 3)) == ERROR_BANNED
    scene.gateway.wait_event("auth.fail", user="alice", reason="banned", count=2)
    assert scene.gateway.sessions() == []


def test_an_app_that_cannot_be_served_is_answered_with_00(scene):
    port = scene.gateway.ports[3]
    for app in (App(protocol=HTTP, host="a.test"), App(protocol=UDP), App(compress=1), App(protocol=7)):
        since = scene.gateway.mark()
        assert answer_after_the_last_byte(scene, scene.request(NEW_APPS, [App(port), app])) == ERROR_OTHER
        refused = scene.gateway.wait_event("tunnel.refuse", since=since, user="alice")
        assert refused["reason"] and refused["tunnel"] and refused["msg"]
        wait_until(lambda: port_is_free(port) and scene.gateway.sessions() == [], 5, "nothing is left of the request")


def test_a_refused_request_displaces_nobody(scene):
    client = scene.client()
    assert scene.dialer().ask(scene.request(NEW_APPS, [App(), App(protocol=UDP)])) == ERROR_OTHER
    assert scene.dialer().ask(scene.request(NEW_APPS, token="wrong")) == ERROR_AUTH
    expect_unharmed(client)
    assert not scene.gateway.events_of("session.takeover")


def test_ports_as_for_every_agent(lab):
    scene = Scene(lab, users=("alice", "bob"))
    gateway = scene.gateway
    first, second, third = gateway.ports[5:8]
    gateway.ctl("user", "bind", "alice", f"tcp/{first}")
    _, bobs = parse_answer(scene.dialer().login(scene.request(NEW_APPS, [App(first)], user="bob")))
    assert bobs == [(1, second)], "a port that is bound to somebody else is not given"
    _, hers = parse_answer(scene.dialer().login(scene.request(NEW_APPS, [App(first), App(second)])))
    assert hers == [(1, first), (2, third)], "her own exactly, instead of what is taken the next free one"


def test_a_bound_port_that_is_taken_is_an_error(scene):
    port = scene.gateway.ports[5]
    scene.gateway.ctl("user", "bind", "alice", f"tcp/{port}")
    with socket.create_server(("127.0.0.1", port)):
        assert scene.dialer().ask(scene.request(NEW_APPS, [App(port)])) == ERROR_OTHER
        scene.gateway.wait_event("tunnel.refuse", user="alice")


def test_more_apps_than_allowed(scene):
    scene.gateway.ctl("user", "limit", "alice", "--tunnels", "2")
    assert scene.dialer().ask(scene.request(NEW_APPS, [App()] * 3)) == ERROR_OTHER
    scene.gateway.wait_event("tunnel.refuse", user="alice")
    assert len(scene.dialer().ask(scene.request(NEW_APPS, [App()] * 2))) == 2 + 2 * 3


def test_a_login_without_apps_ends(scene):
    answer = scene.dialer().ask(scene.request(NEW_APPS, []))
    assert answer in (b"", ERROR_OTHER, struct.pack(">H", scene.ids["alice"]))


# Heartbeat, CloseClient, Disconnect

def test_operations_without_a_session(scene):
    dialer, alice = scene.dialer(), scene.ids["alice"]
    for pieces in (None, 1):
        for client_id in (alice, 0, 1234, 65535):
            assert dialer.ask(heartbeat(client_id), pieces) == b""
            assert dialer.ask(close_client(client_id), pieces) == b""
        assert dialer.ask(disconnect(b"\xa4\x8a\x8f\xd8"), pieces) == b""


def test_operations_with_a_session(scene):
    client = scene.client()
    client_id, dialer = client.client_id, client.dialer
    for pieces in (None, 1):
        for _ in range(3):
            assert dialer.ask(heartbeat(client_id), pieces) == ACK
        assert dialer.ask(heartbeat(client_id + 1), pieces) == b""
        assert dialer.ask(disconnect(b"\xa4\x8a\x8f\xd8"), pieces) == b""
        assert dialer.ask(close_client(client_id + 1), pieces) == b""
    assert len(scene.gateway.sessions()) == 1 and client.idle == 1


def test_what_no_client_says_is_answered_with_an_end(scene):
    for first in (0, 6, 9, 0x16, 0x47, 0xf9, 0xff):
        with scene.dialer().control() as sock:
            sock.sendall(bytes([first]) + b"\0\1\2\3\4\5\6\7")
            expect_end(sock)
    for length in (4097, 0x7fff, 0xffff):
        with scene.dialer().control() as sock:
            sock.sendall(struct.pack(">BH", NEW_APPS, length) + b"x" * 4097)
            assert read_to_end(sock, allow_reset=True) in (b"", ERROR_AUTH)


def test_what_was_ignored_is_counted(scene):
    dialer, alice = scene.dialer(), scene.ids["alice"]
    for request in (heartbeat(alice), close_client(alice), disconnect(b"\0\0\0\0"), b"\x77"):
        dialer.ask(request)
    with dialer.reverse() as sock:
        sock.sendall(scene.opening())
        assert sock.recv(1) == b"\1"
        sock.sendall(b"\0\0\1")
        expect_end(sock)
    ignored = scene.gateway.ctl("status", json=True)["nsp_ignored"]
    assert ignored == {"heartbeat": 1, "close": 1, "disconnect": 1, "request": 1, "reverse": 1}


# Cut short

def requests(scene):
    """Each request, and how long its head is."""
    login = scene.request(NEW_APPS, [App(description="first"), App(description="second")])
    head = len(login) - 2 * 1124 + 4
    return {"new-apps": (login, head), "reconnect": (bytes([RECONNECT]) + login[1:], head),
            "heartbeat": (heartbeat(scene.ids["alice"]), 3), "close": (close_client(scene.ids["alice"]), 3),
            "disconnect": (disconnect(b"\1\2\3\4"), 5)}


@pytest.mark.tsan
def test_a_truncated_request_is_answered_with_an_end(scene):
    whole = requests(scene).values()
    cases = [(request[:cut], close_notify) for request, head in whole for cut in cuts(request, head)
             for close_notify in (True, False)]
    with scene.no_descriptor_lost():
        answers = in_parallel(lambda case: ask_and_leave(scene, *case), cases)
    assert [(case, answer) for case, answer in zip(cases, answers) if answer] == []
    assert scene.gateway.sessions() == []
    assert len(scene.dialer().ask(scene.request(NEW_APPS, [App()]))) == 5


def ask_and_leave(scene, data, close_notify):
    from harness.nsp_wire import send_fin
    with scene.dialer().control() as sock:
        if data:
            sock.sendall(data)
        send_fin(sock, close_notify)
        return read_to_end(sock)


def test_a_request_that_stops_halfway_or_drips_is_closed_in_time(lab):
    scene = Scene(lab, limits={"handshake_seconds": 1})
    halves = [request[:cut] for request, head in requests(scene).values()
              for cut in (0, 1, 2, head - 1, len(request) - 1)]

    def leave_open(half):
        with scene.dialer().control() as sock:
            if half:
                sock.sendall(half)
            return expect_end(sock, 5)

    def drip(_):
        with scene.dialer().control() as sock:
            return time_until_refused(sock, scene.request(NEW_APPS))
    with scene.no_descriptor_lost():
        took = in_parallel(lambda half: drip(half) if half is None else leave_open(half), [*halves, None], 32)
    assert max(took) < scaled(3), "each byte bought more time" if took[-1] > scaled(3) else took


def time_until_refused(sock, request):
    """A byte now and then, until the gateway has had enough."""
    began = time.monotonic()
    for byte in request:
        try:
            sock.sendall(bytes([byte]))
            select.select([sock], [], [], 0.1)
            expect_nothing(sock)
        except (AssertionError, OSError):
            break
    return time.monotonic() - began


# TLS and ALPN

def test_alpn(scene):
    client = scene.client()
    client.drop_idle()
    for alpn, chosen in ((("nsp/1",), "nsp/1"), (None, None), (("h2", "nsp/1"), "nsp/1")):
        dialer = scene.dialer(alpn=alpn)
        with dialer.attach(scene.opening(), client.client_id, 1) as sock:
            assert sock.selected_alpn_protocol() == chosen
            assert client.heartbeat()
            assert sock.recv(10) == b"\3" + bytes(9)
    for alpn, chosen in ((("nsp/1",), "nsp/1"), (None, None), (("h2", "nsp/1"), "nsp/1")):
        with scene.dialer(alpn=alpn).control() as sock:
            assert sock.selected_alpn_protocol() == chosen
            sock.sendall(scene.request(NEW_APPS))
            assert len(sock.recv(1024)) == 5


def test_unknown_names_alone_end_the_handshake(scene):
    for channel, alpn in (("control", ("h2",)), ("control", ("http/1.1", "nsp/2")), ("reverse", ("h2",)),
                          ("reverse", ("postern/1",))):
        dialer = scene.dialer(alpn=alpn)
        with pytest.raises(ssl.SSLError) as caught:
            getattr(dialer, channel)()
        assert "alert no application protocol" in str(caught.value), (channel, alpn)


def test_nothing_is_served_without_tls(scene):
    for port in (scene.gateway.port, scene.gateway.reverse_port):
        with connect(port) as sock:
            sock.sendall(scene.request(NEW_APPS))
            assert read_to_end(sock, allow_reset=True)[:1] in (b"", b"\x15")  # an alert at most
    assert scene.gateway.sessions() == []


def test_without_nsp_there_is_no_reverse_port(lab):
    scene = Scene(lab, nsp={"enabled": False})
    assert port_is_free(scene.gateway.reverse_port)
    with pytest.raises(ssl.SSLError):
        scene.dialer().control()
