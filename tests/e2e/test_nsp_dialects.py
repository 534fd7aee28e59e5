"""Each dialect of the NSP protocol by a scripted client of its own: what it reads, is sent, and is refused."""
import pytest

from harness import (Dialer, Refused, echo_all, how_closed, port_is_free, random_payload, recv_exact, wait_all_closed,
                     wait_until)
from harness.nsp_wire import (ACK, DIALECTS, ERROR_AUTH, ERROR_BANNED, ERROR_OTHER, NEW_APPS, RECONNECT,
                              App, close_client, expect_end, heartbeat, ids, parse_answer, read_control, read_to_end,
                              send_fin)
from nsp_scene import Scene, cuts, expect_unharmed, in_parallel

EVERY = pytest.mark.parametrize("dialect", DIALECTS)
WITH_TOKEN = pytest.mark.parametrize("dialect", [name for name, d in DIALECTS.items() if d.token])


def open_scene(lab, dialect, users=("alice",), **options):
    """In 0.4, which has no token, a client is known by its certificate."""
    if not DIALECTS[dialect].token:
        options["tls"] = {"client_ca": str(lab.certs.ca)}
    return Scene(lab, users, dialect, **options)


def dialer_of(scene, user="alice"):
    return Dialer(scene.gateway, certificate=None if scene.wire.token else scene.gateway.certs.client(user))


def client_of(scene, user="alice", **options):
    return scene.client(user, dialer=dialer_of(scene, user), **options)


@pytest.mark.tsan
@EVERY
def test_a_client_of_its_own(lab, dialect):
    """Its control messages are checked to the byte by the scripted client: one read each, what is too much is lost."""
    scene = open_scene(lab, dialect)
    wanted = scene.gateway.ports[7]
    client = client_of(scene, apps=[(scene.echo, App(wanted)), scene.echo])
    assert client.client_id == scene.ids["alice"] and client.port == wanted
    assert [app for app, _ in client.answer] == [1, 2]
    for number in range(1, 3):
        assert client.heartbeat()
        if scene.wire.keepalive:
            client.wait_event("keepalive", count=2 * number, since=0)
    payload = random_payload(1 << 20)
    echo_all([lab.visit(client.port)], payload)
    crowd = lab.visits(client.ports[1], 10)
    for visitor in crowd:
        visitor.sendall(b"speak at once")
    for visitor in crowd:
        assert visitor.recv(100) == b"speak at once"
    expect_unharmed(client, 5)
    assert bool(client.events_of("keepalive")) == scene.wire.keepalive
    expect_takeover(scene, client, crowd[0])


def expect_takeover(scene, older, visitor):
    """Told by 06 where the client knows that, else by the end of its connections."""
    newer = client_of(scene, apps=older.apps)
    assert how_closed(visitor) == "reset" and newer.answer == older.answer
    older.wait_event("stopped" if scene.wire.force_close else "session_lost")
    expect_unharmed(newer)
    assert len(scene.gateway.sessions()) == 1


@EVERY
def test_each_exchange_in_single_bytes_and_truncated(lab, dialect):
    scene = open_scene(lab, dialect)
    request = scene.request(NEW_APPS, [App(), App()])
    dialer = dialer_of(scene)
    dialer.ask(heartbeat(0))

    def leave(cut):
        with dialer.control() as sock:
            sock.sendall(request[:cut])
            send_fin(sock)
            return read_to_end(sock)
    places = [cut for cut in cuts(request, 100) if cut]
    assert in_parallel(leave, places) == [b""] * len(places)
    assert scene.gateway.sessions() == []
    for op in (NEW_APPS, RECONNECT):
        request = scene.wire.request(op, scene.tokens["alice"], [App(description="one", host="h"), App()], 0, 77)
        client_id, apps = parse_answer(dialer.ask(request, pieces=1))
        assert client_id == scene.ids["alice"] and [app for app, _ in apps] == [1, 2]
        assert all(port in scene.gateway.ports for _, port in apps)
    expect_transfer(scene, dialer, client_id, apps[0][1])


def expect_transfer(scene, dialer, client_id, port):
    with dialer.attach(scene.opening(), client_id, 1) as sock:
        assert dialer.ask(heartbeat(client_id)) == ACK
        visitor = scene.lab.visit(port)
        visitor.sendall(b"payload")
        if scene.wire.keepalive:
            keepalive = read_control(sock, scene.wire.control_read)
            assert keepalive == b"\3".ljust(scene.wire.control_read, b"\0")
        message = recv_exact(sock, scene.wire.control_read)
        assert message == scene.wire.transfer(message[1:5])
        assert recv_exact(sock, 7) == b"payload"
        sock.sendall(b"answer")
        assert recv_exact(visitor, 6) == b"answer"


@WITH_TOKEN
def test_the_token_counts(lab, dialect):
    scene = open_scene(lab, dialect)
    assert scene.dialer().ask(scene.request(NEW_APPS, token="x" * 40)) == ERROR_AUTH
    assert scene.dialer().ask(scene.wire.opening("x" * 40), reverse=True) == b"\0"
    scene.gateway.ctl("user", "ban", "alice")
    assert scene.dialer().ask(scene.request(NEW_APPS)) == ERROR_BANNED


def test_compressed_apps_are_refused_where_nobody_can_carry_them(lab):
    scene = open_scene(lab, "1.2")
    assert scene.dialer().ask(scene.request(NEW_APPS, [App(compress=1)])) == ERROR_OTHER
    assert scene.gateway.wait_event("tunnel.refuse", user="alice")["reason"]


# 0.4: no token, the certificate says who it is

class TestNoToken:
    @pytest.mark.tsan
    def test_a_second_request_adds_apps(self, lab):
        scene = open_scene(lab, "0.4")
        client = client_of(scene)
        visitor = lab.visit(client.port)
        echo_all([visitor], b"x")
        client.login(apps=[scene.echo, scene.echo], reverse=False)
        assert [app for app, _ in client.answer] == [1, 2, 3] and len(set(client.ports)) == 3
        client.open_reverse(2)
        client.open_reverse(3)
        for port in client.ports:
            other = lab.visit(port)
            other.sendall(b"serves")
            assert other.recv(10) == b"serves"
        visitor.sendall(b"undisturbed")
        assert visitor.recv(20) == b"undisturbed"
        sessions = scene.gateway.sessions()
        assert len(sessions) == 1 and sessions[0]["tunnels"] == 3
        assert not client.events_of("session_lost")

    def test_255_apps_at_most(self, lab):
        scene = open_scene(lab, "0.4", ports=264)
        scene.gateway.ctl("user", "limit", "alice", "--tunnels", "1000")
        dialer, alice = dialer_of(scene), scene.ids["alice"]
        _, first = parse_answer(dialer.login(scene.request(NEW_APPS, [App()] * 200)))
        assert dialer.ask(scene.request(NEW_APPS, [App()] * 56, client_id=alice)) == ERROR_OTHER
        _, rest = parse_answer(dialer.login(scene.request(NEW_APPS, [App()] * 55, client_id=alice)))
        assert [app for app, _ in first + rest] == list(range(1, 256))
        assert len({port for _, port in first + rest}) == 255
        assert dialer.ask(scene.request(NEW_APPS, client_id=alice)) == ERROR_OTHER
        assert scene.gateway.sessions()[0]["tunnels"] == 255

    def test_the_certificate_says_who_it_is(self, lab):
        scene = open_scene(lab, "0.4", users=("alice", "bob"))
        for user in ("alice", "bob"):
            client = client_of(scene, user)
            assert client.client_id == scene.ids[user]
            expect_unharmed(client)
        assert {s["user"] for s in scene.gateway.sessions()} == {"alice", "bob"}

    def test_a_certificate_of_nobody(self, lab):
        scene = open_scene(lab, "0.4")
        assert dialer_of(scene, "stranger").ask(scene.request(NEW_APPS)) == ERROR_AUTH
        scene.gateway.wait_event("auth.fail")

    def test_without_certificates_nobody_is_known(self, lab):
        scene = Scene(lab, dialect="0.4")
        with pytest.raises(Refused) as refused:
            scene.client()
        assert refused.value.answer == ERROR_AUTH

    @pytest.mark.tsan
    def test_no_attaching_with_another_users_certificate(self, lab):
        scene = open_scene(lab, "0.4", users=("alice", "bob"))
        alice = client_of(scene)
        client_of(scene, "bob")
        for user in ("bob", "stranger"):
            with dialer_of(scene, user).reverse() as sock:
                sock.sendall(ids(alice.client_id, 1))
                expect_end(sock)
            assert dialer_of(scene, user).ask(close_client(alice.client_id)) == b""
        expect_unharmed(alice)

    def test_a_ban_ends_it(self, lab):
        scene = open_scene(lab, "0.4")
        client = client_of(scene)
        visitor = lab.visit(client.port)
        echo_all([visitor], b"x")
        scene.gateway.ctl("user", "ban", "alice")
        assert wait_all_closed([visitor], 1.0) == ["reset"]
        wait_until(lambda: port_is_free(client.port), 1.0)
        assert dialer_of(scene).ask(scene.request(NEW_APPS)) == ERROR_BANNED
        with dialer_of(scene).reverse() as sock:
            sock.sendall(ids(client.client_id, 1))
            expect_end(sock)
        assert not client.heartbeat()
