"""NSP's operations carry an id and no proof: what another user's valid token, session and guesses are good for."""
import itertools
import ssl

import pytest

from harness import Refused, echo_all, how_closed, port_is_free, wait_all_closed, wait_until
from harness.nsp_wire import (ACK, AUTH_FAILED, AUTH_OK, ERROR_AUTH, ERROR_BANNED, NEW_APPS, RECONNECT, App,
                              close_client, disconnect, expect_end, heartbeat, ids, parse_answer)
from nsp_scene import Scene, expect_no_event, expect_unharmed, expect_unserved

ELSEWHERE = "127.0.0.2"


class Stage:
    """Alice with a session and a visitor; Bob with a valid token and a session of his own. `dialers` are his: one that
    is new, and one with the TLS session that has proven to be his."""

    def __init__(self, lab):
        self.scene = Scene(lab, users=("alice", "bob"))
        self.lab, self.gateway = lab, self.scene.gateway
        self.alice = self.scene.client("alice")
        self.visitor = lab.visit(self.alice.port)
        echo_all([self.visitor], b"hello")
        self.transfer = self.alice.wait_event("tunnel")["id"]
        self.bob = self.scene.client("bob")
        self.dialers = [self.scene.dialer(), self.bob.dialer]

    def expect_alice_unharmed(self):
        echo_all([self.visitor], b"never noticed")
        expect_unharmed(self.alice)
        assert not self.gateway.events_of("session.close", user="alice")
        assert not self.gateway.events_of("session.takeover", user="alice")
        assert len(self.scene.sessions_of("alice")) == 1


@pytest.fixture
def stage(lab):
    return Stage(lab)


@pytest.mark.tsan
def test_no_attaching_to_another_users_session(stage):
    scene, alice = stage.scene, stage.alice
    alice.drop_idle()
    waiting = stage.lab.visits(alice.port, 3)
    for dialer, app in itertools.product(stage.dialers, (1, 2, 0)):
        with dialer.reverse() as sock:
            sock.sendall(scene.opening("bob"))
            assert sock.recv(1) == AUTH_OK  # the token is good, and the id is not known yet
            sock.sendall(ids(alice.client_id, app))
            expect_end(sock)
        with dialer.reverse() as sock:
            sock.sendall(scene.opening("bob") + ids(alice.client_id, app))
            assert sock.recv(1) in (AUTH_OK, AUTH_FAILED)
            expect_end(sock)
    alice.open_reverse()
    echo_all(waiting, b"hers alone")
    stage.expect_alice_unharmed()


@pytest.mark.tsan
def test_no_closing_disconnecting_or_displacing(stage):
    """Nor by herself as long as her connections live: a close is checked, not believed."""
    scene, alice = stage.scene, stage.alice
    alice.close_client()
    assert scene.dialer(resume=False).ask(disconnect(stage.transfer)) == b""  # hers, without proof
    for dialer in stage.dialers:
        for _ in range(3):
            assert dialer.ask(close_client(alice.client_id)) == b""
            assert dialer.ask(disconnect(stage.transfer)) == b""
        # Naming her id at login: he gets his own.
        for op in (NEW_APPS, RECONNECT):
            client_id, _ = parse_answer(dialer.login(scene.request(op, user="bob", client_id=alice.client_id)))
            assert client_id == scene.ids["bob"]
        assert dialer.ask(disconnect(stage.transfer)) == b""
    # In a moment in which she has no idle connection.
    alice.drop_idle()
    for dialer in stage.dialers:
        assert dialer.ask(close_client(alice.client_id)) == b""
    alice.open_reverse()
    expect_no_event(stage.gateway, "visitor.close", 2.5, user="alice")
    stage.expect_alice_unharmed()


def test_heartbeats_from_elsewhere(stage):
    """A heartbeat is taken from the registering address, or by proof."""
    scene, alice = stage.scene, stage.alice
    for dialer in (*stage.dialers, scene.dialer(resume=False)):
        assert dialer.elsewhere(ELSEWHERE).ask(heartbeat(alice.client_id)) == b""
    assert scene.dialer(resume=False).ask(heartbeat(alice.client_id)) == ACK
    assert alice.dialer.elsewhere(ELSEWHERE).ask(heartbeat(alice.client_id)) == ACK
    stage.expect_alice_unharmed()


@pytest.mark.tsan
def test_disconnect_with_proof_ends_one_transfer(lab):
    """Alice and Bob are behind one TLS proxy: the proof is good for both, and each has a session."""
    scene = Scene(lab, users=("alice", "bob"))
    shared = scene.dialer()
    alice, bob = scene.client("alice", dialer=shared), scene.client("bob", dialer=shared)
    crowd = [lab.visit(port) for port in (alice.port, alice.port, bob.port, bob.port)]
    for visitor in crowd:  # one after the other, so that the ids are in this order
        echo_all([visitor], b"hello")
    alice.disconnect(alice.events_of("tunnel")[0]["id"])
    bob.disconnect(bob.events_of("tunnel")[1]["id"])
    assert {how_closed(crowd[0]), how_closed(crowd[3])} <= {"fin", "reset"}
    echo_all(crowd[1:3], b"still here")
    for client in (alice, bob):
        expect_unharmed(client)


def test_client_certificates_go_with_the_token(lab):
    """Where they are asked for: the name is the token's user, on both channels, and a certificate is proof."""
    scene = Scene(lab, users=("alice", "bob"), tls={"client_ca": str(lab.certs.ca)})
    alices, bobs = (lab.certs.client(user) for user in ("alice", "bob"))
    alice = scene.client("alice", certificate=alices)
    expect_unharmed(alice)
    stranger = scene.dialer(certificate=bobs)
    assert stranger.ask(scene.request(NEW_APPS, user="alice")) == ERROR_AUTH
    assert stranger.ask(scene.opening("alice"), reverse=True) == AUTH_FAILED
    assert stranger.elsewhere(ELSEWHERE).ask(heartbeat(alice.client_id)) == b""
    fresh = scene.dialer(certificate=alices, resume=False, source=ELSEWHERE)
    assert fresh.ask(heartbeat(alice.client_id)) == ACK
    for channel in ("control", "reverse"):
        with pytest.raises(ssl.SSLError, match="certificate required"):  # TLS 1.3 tells on the first read
            getattr(scene.dialer(), channel)().recv(1)
    expect_unharmed(alice)


# No longer allowed

@pytest.mark.tsan
@pytest.mark.parametrize("command,answer,reverse", [
    (["user", "ban", "alice"], ERROR_BANNED, AUTH_FAILED), (["token", "revoke"], ERROR_AUTH, AUTH_FAILED),
    (["user", "remove", "alice"], ERROR_AUTH, AUTH_FAILED),
], ids=["ban", "revoke", "remove"])
def test_what_is_no_longer_allowed_ends_within_a_second(lab, command, answer, reverse):
    scene = Scene(lab, users=("alice", "bob"))
    gateway, alice, bob = scene.gateway, scene.client("alice", login=False), scene.client("bob")
    with scene.no_descriptor_lost():
        alice.login(apps=[scene.echo, lab.source(bytes(65536), total=1 << 40), scene.echo])
        crowd = lab.visits(alice.port, 20)
        echo_all(crowd, b"hello")
        downloads = lab.visits(alice.ports[1], 5)
        waiting_for_data(downloads)
        alice.drop_idle(app=3)
        waiting = lab.visits(alice.ports[2], 5)
        gateway.wait_event("visitor.open", user="alice", count=30)
        alices_token = scene.tokens["alice"].split("_")[1]
        gateway.ctl(*command, *([alices_token] if command[1] == "revoke" else []))
        assert set(wait_all_closed([*crowd, *downloads, *waiting], 1.0)) == {"reset"}
        wait_until(lambda: all(map(port_is_free, alice.ports)), 1.0, "her ports are free")
        wait_until(lambda: alice.idle == 0, 1.0, "her idle connections have ended")
        assert not alice.heartbeat()
        with pytest.raises(Refused) as refused:
            alice.login()
        assert refused.value.answer == answer
        assert alice.dialer.ask(scene.opening("alice"), reverse=True) == reverse
        assert alice.dialer.ask(scene.opening("alice"), pieces=1, reverse=True) == reverse
        alice.drop_all()
        for sock in [*crowd, *downloads, *waiting]:
            sock.close()
    gateway.wait_event("session.close", user="alice")
    expect_unharmed(bob)


def waiting_for_data(socks):
    for sock in socks:
        assert sock.recv(1000)


@pytest.mark.tsan
def test_a_token_revoked_since_attaches_nothing(lab):
    """The session lives by another token of the same user."""
    scene = Scene(lab)
    alice, spare = scene.client(), scene.gateway.create_token("alice")
    with alice.dialer.attach(scene.wire.opening(spare), alice.client_id, 1) as sock:
        assert alice.heartbeat() and sock.recv(10) == b"\3" + bytes(9)
    scene.gateway.ctl("token", "revoke", spare.split("_")[1])
    for dialer in (alice.dialer, scene.dialer()):
        assert dialer.ask(scene.wire.opening(spare), reverse=True) == AUTH_FAILED
    scene.gateway.wait_event("auth.fail", user="alice", reason="revoked")
    expect_unharmed(alice)


def test_a_token_revoked_between_token_and_ids(lab):
    scene = Scene(lab)
    alice, spare = scene.client(), scene.gateway.create_token("alice")
    alice.drop_idle()
    with scene.dialer().reverse() as sock:
        sock.sendall(scene.wire.opening(spare))
        assert sock.recv(1) == AUTH_OK
        scene.gateway.ctl("token", "revoke", spare.split("_")[1])
        sock.sendall(ids(alice.client_id, 1))
        expect_end(sock)
    alice.open_reverse()
    expect_unharmed(alice)


def test_kick(lab):
    scene = Scene(lab)
    client = scene.client()
    visitor = lab.visit(client.port)
    echo_all([visitor], b"hello")
    scene.gateway.ctl("session", "kick", "alice/nsp")
    assert how_closed(visitor, 1.0) == "reset"
    client.wait_event("session_lost", timeout=2)
    assert not client.events_of("force_close"), "that would keep it from coming back"
    assert scene.gateway.sessions() == []
    expect_unserved(client.port)
    client.login()
    client.events.clear()
    expect_unharmed(client)


def test_the_ports_are_free_for_others_when_the_session_is_gone(lab):
    scene = Scene(lab, users=("alice", "bob"))
    alice = scene.client("alice", apps=[(scene.echo, App(scene.gateway.ports[6]))])
    scene.gateway.ctl("user", "ban", "alice")
    wait_until(lambda: port_is_free(alice.port), 1.0)
    bob = scene.client("bob", apps=[(scene.echo, App(scene.gateway.ports[6]))])
    assert bob.port == alice.port
    expect_unharmed(bob)
    assert alice.dialer.ask(close_client(bob.client_id)) == b""
