"""NSP's reverse channel, byte by byte: openings, refusals, keepalives, and visitors who wait for a connection."""
import itertools

import pytest

from harness import abort, echo_all, expect_open, random_payload, recv_exact
from harness.nsp_wire import (ACK, AUTH_FAILED, AUTH_OK, KEEPALIVE, NEW_APPS, TRANSFER, App, expect_end, heartbeat, ids,
                              parse_answer, read_control, read_to_end, send_fin, send_pieces)
from nsp_scene import Scene, cuts, expect_no_event, expect_unharmed, in_parallel

TRANSFER_LENGTH = 10


class Session:
    """Alice's session with `apps` apps, whose reverse connections a test opens itself."""

    def __init__(self, scene, apps=1):
        self.scene, self.gateway, self.dialer = scene, scene.gateway, scene.dialer()
        self.id, answer = parse_answer(self.dialer.login(scene.request(NEW_APPS, [App()] * apps)))
        self.ports = [port for _, port in answer]

    def attach(self, app=1):
        return self.dialer.attach(self.scene.opening(), self.id, app)

    def carry(self, reverse, app=1):
        """A visitor comes, and the idle connection becomes his: checks the message and both directions."""
        visitor = self.scene.lab.visit(self.ports[app - 1])
        return self.expect_transfer(reverse, visitor), visitor

    def expect_transfer(self, reverse, visitor):
        message = read_control(reverse, TRANSFER_LENGTH)
        assert len(message) == TRANSFER_LENGTH and message[0] == TRANSFER and message[5:] == bytes(5), message.hex(" ")
        visitor.sendall(b"ping")
        assert recv_exact(reverse, 4) == b"ping"
        reverse.sendall(b"pong")
        assert recv_exact(visitor, 4) == b"pong"
        return message[1:5]


@pytest.fixture
def session(lab):
    return Session(Scene(lab))


# Openings

@pytest.mark.tsan
def test_opening(session):
    """Three bytes of ids, or four of which the last counts for nothing; in whatever pieces."""
    opening = session.scene.opening()
    ways = [[opening[:1], opening[1:3], opening[3:]], 1, None, "all at once"]
    for pieces, tail in itertools.product(ways, (b"", b"\0", b"\x07")):
        last = ids(session.id, 1) + tail
        with session.dialer.reverse() as sock:
            if pieces == "all at once":
                sock.sendall(opening + last)
                assert recv_exact(sock, 1) == AUTH_OK
            else:
                send_pieces(sock, opening, pieces)
                assert recv_exact(sock, 1) == AUTH_OK
                send_pieces(sock, last, pieces if pieces == 1 else None)
            session.carry(sock)
    session.gateway.wait_event("visitor.open", user="alice", port=session.ports[0], count=len(ways) * 3)


@pytest.mark.tsan
def test_a_truncated_opening_is_answered_with_an_end(session):
    scene = session.scene
    client = scene.client()
    opening = scene.opening() + ids(client.client_id, 1)

    def leave(case):
        cut, close_notify = case
        with scene.dialer().reverse() as sock:
            if cut:
                sock.sendall(opening[:cut])
            send_fin(sock, close_notify)
            return read_to_end(sock)
    with scene.no_descriptor_lost():
        cases = list(itertools.product(cuts(opening, len(opening)), (True, False)))
        answers = in_parallel(leave, cases)
    early = [(case, answer) for case, answer in zip(cases, answers) if case[0] < len(opening) - 3 and answer]
    assert not early and all(answer in (b"", AUTH_OK) for answer in answers)
    expect_unharmed(client)


def test_an_opening_that_stops_halfway_is_closed_in_time(lab):
    scene = Scene(lab, limits={"handshake_seconds": 1})
    client = scene.client()
    opening = scene.opening() + ids(client.client_id, 1)
    places = [0, 1, 2, 3, 20, len(opening) - 4, len(opening) - 3, len(opening) - 2, len(opening) - 1]
    with scene.no_descriptor_lost():
        socks = [scene.dialer().reverse() for _ in places]
        for sock, place in zip(socks, places):
            if place:
                sock.sendall(opening[:place])
        in_parallel(lambda sock: read_to_end(sock, 4, allow_reset=True), socks, len(socks))
        for sock in socks:
            sock.close()
    expect_unharmed(client)  # idle is not halfway: its connection has been there all the time


def test_a_wrong_token_is_answered_with_00(session):
    revoked = session.gateway.create_token("alice")
    session.gateway.ctl("token", "revoke", revoked.split("_")[1])
    for token in ("x", "AAAAAAAAAAAAAAAAAAAAAA==", "notoken", "y" * 4096, "", revoked):
        since, opening = session.gateway.mark(), session.scene.wire.opening(token)
        assert session.dialer.ask(opening, reverse=True) == AUTH_FAILED
        assert session.dialer.ask(opening, pieces=1, reverse=True) == AUTH_FAILED
        with session.dialer.reverse() as sock:  # the ids come along: no second answer
            sock.sendall(opening + ids(session.id, 1))
            assert read_to_end(sock, allow_reset=True) == AUTH_FAILED
        session.gateway.wait_event("auth.fail", since=since, count=3)
    with session.attach() as sock:
        session.carry(sock)


def test_ids_that_are_not_there(session):
    for client_id, app in [(session.id, 0), (session.id, 2), (session.id, 255), (session.id + 1, 1), (0, 1),
                           (65535, 1)]:
        with session.dialer.reverse() as sock:
            sock.sendall(session.scene.opening())
            assert recv_exact(sock, 1) == AUTH_OK
            sock.sendall(ids(client_id, app))
            expect_end(sock)
    with session.attach() as sock:
        session.carry(sock)


def test_a_user_without_a_session(lab):
    scene = Scene(lab)
    with scene.dialer().reverse() as sock:
        sock.sendall(scene.opening())
        assert recv_exact(sock, 1) == AUTH_OK
        sock.sendall(ids(scene.ids["alice"], 1))
        expect_end(sock)


# Control messages

def test_keepalives_are_ten_bytes(lab):
    scene = Scene(lab)
    session = Session(scene, apps=3)
    pool = [session.attach(app) for app in (1, 1, 2, 3)]
    for _ in range(3):
        assert session.dialer.ask(heartbeat(session.id)) == ACK
        for sock in pool:
            assert read_control(sock, 20) == bytes([KEEPALIVE]) + bytes(9)
    for sock in pool:
        sock.close()


def test_no_keepalive_in_a_tunnel(session):
    """The visitor's bytes are all that comes, from the first moment on."""
    payload = random_payload(20_000)
    for _ in range(10):
        with session.attach() as sock:
            visitor = session.scene.lab.visit(session.ports[0])
            answers = in_parallel(lambda _: session.dialer.ask(heartbeat(session.id)), range(4), 4)
            visitor.sendall(payload)
            message = read_control(sock, 10)
            while message[0] == KEEPALIVE:
                assert message == bytes([KEEPALIVE]) + bytes(9)
                message = read_control(sock, 10)
            assert message[0] == TRANSFER and len(message) == 10
            assert recv_exact(sock, len(payload)) == payload and set(answers) == {ACK}
            abort(visitor)


def test_transfer_ids_are_all_different(lab):
    session = Session(Scene(lab))
    seen = set()
    for _ in range(40):
        with session.attach() as sock:
            seen.add(session.carry(sock)[0])
    assert len(seen) == 40
    differences = {b - a for a, b in itertools.pairwise(sorted(int.from_bytes(i, "big") for i in seen))}
    assert len(differences) > 30, "they can be guessed"


# Visitors who wait

@pytest.mark.tsan
def test_visitors_wait_in_order(session):
    crowd = []
    for number in range(5):
        crowd.append(session.scene.lab.visit(session.ports[0]))
        session.gateway.wait_event("visitor.open", count=number + 1)
    for number, visitor in enumerate(crowd):
        with session.attach() as sock:
            session.expect_transfer(sock, visitor)
        for other in crowd[number + 1:]:
            expect_open(other)


def test_what_a_visitor_said_before_arrives_whole(lab):
    scene = Scene(lab)
    client = scene.client(login=False)
    client.login(reverse=False)
    visitor, payload = scene.lab.visit(client.port), random_payload(300_000)
    visitor.sendall(payload[:100_000])
    scene.gateway.wait_event("visitor.open")
    client.open_reverse()
    visitor.sendall(payload[100_000:])
    assert recv_exact(visitor, len(payload)) == payload


@pytest.mark.tsan
def test_a_visitor_who_left_costs_no_connection(lab):
    scene = Scene(lab)
    client = scene.client(login=False)
    client.login(reverse=False)
    for visitor in scene.lab.visits(client.port, 10):
        abort(visitor)
    scene.gateway.wait_event("visitor.open", count=10)
    scene.gateway.wait_event("visitor.close", count=10)
    client.open_reverse()
    expect_no_event(scene.gateway, "visitor.open", 0.2)
    assert client.idle == 1 and not client.events_of("transfer")
    expect_unharmed(client)


def test_resets_in_the_moment_of_the_handover(lab):
    """Connections are given to visitors who leave at once; none may be lost for those who stay."""
    scene = Scene(lab)
    client = scene.client()
    for _ in range(60):
        abort(scene.lab.visit(client.port))
    crowd = scene.lab.visits(client.port, 5)
    echo_all(crowd, random_payload(50_000))
    expect_unharmed(client)


def test_a_crowd_without_any_connection_harms_nobody(lab):
    scene = Scene(lab, users=("alice", "bob"))
    alice, bob = scene.client("alice", login=False), scene.client("bob")
    alice.login(reverse=False)
    crowd = scene.lab.visits(alice.port, 100)
    scene.gateway.wait_event("visitor.open", user="alice", count=100)
    expect_unharmed(bob, 10)
    assert alice.heartbeat() and bob.heartbeat()
    for visitor in crowd[:50]:
        abort(visitor)
    alice.open_reverse()
    echo_all(crowd[50:], b"at last")
    expect_unharmed(alice)
    assert not scene.gateway.events_of("session.close")


def test_end_of_the_idle_connection_while_nobody_visits(lab):
    """The client may drop a connection and open another: its session goes on."""
    scene = Scene(lab)
    client = scene.client()
    for _ in range(5):
        client.drop_idle()
        client.open_reverse()
        expect_unharmed(client)
    assert len(scene.gateway.sessions()) == 1
