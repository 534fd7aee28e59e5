"""Visitors of NSP apps, through a client as strict as the real one: bytes, ends, half-closes, crowds."""
import hashlib
import select
import socket
import threading
import time

import pytest

from harness import (Target, abort, connect, echo_all, how_closed, port_is_free, random_payload, recv_all, recv_exact,
                     scaled, wait_until)
from nsp_scene import Scene, expect_unharmed, quiet

MIB = 1 << 20
FIN_SILENCE = 2.0  # the client closes both directions at the first end: a visitor's FIN waits for so much silence


class Later(Target):
    """Answers when the test says so."""

    def __init__(self, **options):
        self.asked = b""
        super().__init__(**options)

    def on_data(self, connection, data):
        self.asked += data

    def on_fin(self, connection):
        """Its side stays open."""

    def say(self, data=b"", fin=False):
        def send():
            for connection in list(self._connections):
                connection.out += data
                connection.finishing = fin
                self._advance(connection)
        self.call(send)


class Stream:
    """A visitor who sends a pattern while he reads, compares, and goes when all of it has come back."""

    def __init__(self, port, block, times):
        self.failure = None
        self._sock, self._block, self._times = connect(port), block, times
        self._threads = [threading.Thread(target=self._guard, args=(part,), daemon=True)
                         for part in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _guard(self, part):
        try:
            part()
        except Exception as failure:  # shown by finish()
            self.failure = failure

    def _send(self):
        for _ in range(self._times):
            self._sock.sendall(self._block)

    def _receive(self):
        for _ in range(self._times):
            assert recv_exact(self._sock, len(self._block)) == self._block, "bytes differ"

    def finish(self, timeout):
        deadline = time.monotonic() + scaled(timeout)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"not through within {scaled(timeout):g} s"
        assert self.failure is None, self.failure
        self._sock.close()


@pytest.mark.tsan
def test_twenty_visitors_at_once(lab):
    """100 MiB each way in all, through one idle connection at a time."""
    scene = Scene(lab)
    client = scene.client()
    crowd = [Stream(client.port, random_payload(MIB + number, number), 5) for number in range(20)]
    for stream in crowd:
        stream.finish(60)
    moved = sum(client.wait_event("tunnel_end", count=n + 1)["down"] for n in range(20))
    assert moved == sum((MIB + n) * 5 for n in range(20)) and client.idle == 1
    closed = [scene.gateway.wait_event("visitor.close", count=n + 1) for n in range(20)]
    assert {event["user"] for event in closed} == {"alice"} and {event["bytes_in"] for event in closed} == \
        {event["bytes_out"] for event in closed} == {(MIB + n) * 5 for n in range(20)}
    listed = scene.gateway.sessions()[0]
    assert listed["bytes_in"] == listed["bytes_out"] == moved
    expect_unharmed(client)


@pytest.mark.release
@pytest.mark.slow
def test_twenty_visitors_with_100_mib_each(lab):
    scene = Scene(lab)
    client = scene.client()
    crowd = [Stream(client.port, random_payload(MIB, number), 100) for number in range(20)]
    for stream in crowd:
        stream.finish(240)
    expect_unharmed(client)


@pytest.mark.tsan
def test_visitors_come_and_go(lab):
    scene = Scene(lab)
    client = scene.client()
    with scene.no_descriptor_lost():
        for _ in range(3):
            crowd = lab.visits(client.port, 25)
            echo_all(crowd, random_payload(3000))
            for visitor in crowd:
                abort(visitor)
        client.wait_event("disconnected", count=75)
        wait_until(lambda: client.idle == 1, what="the replacement of the last one")
    assert len({event["id"] for event in client.events_of("transfer")}) == 75
    expect_unharmed(client)


def test_several_apps(lab):
    scene = Scene(lab)
    targets = [lab.source(f"target {n}".encode(), total=8) for n in range(5)]
    client = scene.client(apps=targets)
    for number, port in enumerate(client.ports):
        assert recv_all(lab.visit(port)) == f"target {number}".encode()
    opened, visited = ({(e["port"], e["tunnel"]) for e in five_events(scene, event)}
                       for event in ("tunnel.open", "visitor.open"))
    assert opened == visited and len({tunnel for _, tunnel in opened}) == 5


def five_events(scene, event):
    return [scene.gateway.wait_event(event, count=n) for n in range(1, 6)]


@pytest.mark.parametrize("orderly", [True, False], ids=["close-notify", "bare-fin"])
def test_a_target_that_speaks_first_and_closes(lab, orderly):
    """All that it said arrives, then its FIN, whether or not the connection's end is a close_notify."""
    scene = Scene(lab)
    block = random_payload(MIB)
    client = scene.client(apps=[lab.source(block, total=20 * MIB)], orderly=orderly)
    with lab.visit(client.port) as visitor:
        assert hashlib.sha256(recv_all(visitor)).digest() == hashlib.sha256(block * 20).digest()
    scene.gateway.wait_event("visitor.close", bytes_out=20 * MIB)
    expect_no_losses(client)


def expect_no_losses(client):
    assert not client.events_of("session_lost") and client.heartbeat()
    wait_until(lambda: client.idle == 1, what="an idle connection is there")


# Half-close

@pytest.mark.tsan
def test_half_closed_visitors(lab):
    """Four at once: one whose answer comes later, an upload, one who said the end before there was a connection for
    him, and one who says it when all is said."""
    scene, later, discard = Scene(lab), lab.add_target(Later()), lab.discard()
    client = scene.client(apps=[scene.echo, later, discard], login=False)
    client.login(reverse=False)
    early = lab.visit(client.ports[0])
    early.sendall(b"early")
    early.shutdown(socket.SHUT_WR)
    scene.gateway.wait_event("visitor.open")
    client.open_reverse()
    uploader, upload = lab.visit(client.ports[2]), random_payload(20 * MIB)
    uploader.sendall(upload)
    uploader.shutdown(socket.SHUT_WR)
    polite = lab.visit(client.ports[0])
    echo_all([polite], b"good bye")
    said = time.monotonic()
    polite.shutdown(socket.SHUT_WR)

    expect_the_answer_that_comes_later(lab.visit(client.ports[1]), later)

    assert how_closed(polite) == "fin" and recv_all(early) == b"early"
    ends = {client.wait_event("tunnel_end", app=1, count=n)["at"] for n in (1, 2)}
    assert FIN_SILENCE - 0.1 <= max(ends) - said < FIN_SILENCE + scaled(2)
    wait_until(lambda: scene.echo.stats.fins == 2 and scene.echo.stats.open == 0, what="the target saw the ends")
    wait_until(lambda: discard.digests, what="the upload is there")
    assert discard.digests == [hashlib.sha256(upload).hexdigest()]
    assert {client.wait_event("tunnel_end", app=app)["by"] for app in (1, 3)} == {"visitor"}
    assert client.wait_event("tunnel_end", app=2)["by"] == "target"
    for visitor, sent, got in ((early, 5, 5), (polite, 8, 8), (uploader, 20 * MIB, 0)):
        visitor.close()
        scene.gateway.wait_event("visitor.close", bytes_in=sent, bytes_out=got)
    expect_unharmed(client)


def expect_the_answer_that_comes_later(visitor, target):
    """He says the end behind his request, and the answer has pauses."""
    visitor.sendall(b"what is there?")
    visitor.shutdown(socket.SHUT_WR)
    wait_until(lambda: target.asked == b"what is there?", what="the request arrives")
    answer = random_payload(2 * MIB)
    target.say(answer[:MIB])
    assert recv_exact(visitor, MIB) == answer[:MIB]
    quiet(visitor, FIN_SILENCE * 0.6)  # shorter than the rule's silence, counted from the last byte
    target.say(answer[MIB:MIB + 1])
    assert recv_exact(visitor, 1) == answer[MIB:MIB + 1]
    quiet(visitor, FIN_SILENCE * 0.6)
    target.say(answer[MIB + 1:], fin=True)
    assert recv_all(visitor) == answer[MIB + 1:]


# Misfortunes

def test_a_visitors_reset_ends_his_tunnel_alone(lab):
    scene = Scene(lab)
    client = scene.client()
    one, other = lab.visits(client.port, 2)
    echo_all([one, other], b"hello")
    abort(one)
    client.wait_event("tunnel_end", by=lambda by: by in ("visitor", "error"))
    wait_until(lambda: scene.echo.stats.open == 1, what="the target's connection has ended")
    echo_all([other], random_payload(100_000))
    expect_unharmed(client)


def test_a_target_that_refuses(lab):
    scene = Scene(lab)
    client = scene.client(apps=[lab.refused_port(), scene.echo])
    for number in range(5):
        assert how_closed(lab.visit(client.port)) in ("fin", "reset")
        client.wait_event("target_refused", count=number + 1)
    echo_all([lab.visit(client.ports[1])], b"the other app works")
    assert not client.events_of("session_lost") and client.heartbeat()


def test_a_target_that_resets(lab):
    scene = Scene(lab)
    client = scene.client(apps=[lab.reset_target(on_first_data=True)])
    for number in range(5):
        visitor = lab.visit(client.port)
        visitor.sendall(b"boo")
        assert how_closed(visitor) in ("fin", "reset")
        client.wait_event("tunnel_end", count=number + 1)
    expect_no_losses(client)


@pytest.mark.tsan
def test_a_client_that_dies_resets_its_visitors(lab):
    """Half an answer is never taken for a whole one where the client has crashed."""
    scene = Scene(lab)
    client = scene.client()
    crowd = lab.visits(client.port, 10)
    echo_all(crowd, random_payload(10_000))
    client.drop_all(reset=True)
    assert {how_closed(visitor) for visitor in crowd} == {"reset"}
    client.login()
    expect_unharmed(client)


def test_a_visitor_who_does_not_read_stops_nobody(lab):
    scene = Scene(lab)
    client = scene.client(apps=[lab.source(bytes(65536), total=1 << 34), scene.echo])
    stuck = lab.visits(client.port, 5)
    for visitor in stuck:
        assert select.select([visitor], [], [], scaled(10))[0]
    wait_until(lambda: at_rest(scene), 20, "the streams stand still")
    expect_open_apps(lab, client)
    for visitor in stuck:
        abort(visitor)
    client.wait_event("tunnel_end", count=5)
    assert not client.events_of("session_lost")


def at_rest(scene):
    """Nothing moves between two looks."""
    before = scene.gateway.sessions()[0]["bytes_out"]
    return select.select([], [], [], 0.2) and scene.gateway.sessions()[0]["bytes_out"] == before


def expect_open_apps(lab, client):
    crowd = lab.visits(client.ports[1], 5)
    echo_all(crowd, random_payload(200_000))
    assert client.heartbeat()


# The end of a session

@pytest.mark.tsan
def test_close_client_ends_a_session_whose_connections_are_gone(lab):
    """With proof, without, and without TLS: it is the missing connections that count."""
    scene = Scene(lab, users=("proven", "unproven", "plain"), plaintext=True)
    ways = {"proven": {}, "unproven": {"resume": False}, "plain": {"plaintext": True}}
    clients = {user: scene.client(user, [scene.echo, scene.echo], login=False, **way) for user, way in ways.items()}
    with scene.no_descriptor_lost():
        visitors = [visitor for client in clients.values() for visitor in lab.visits(client.login().port, 3)]
        echo_all(visitors, b"hello")
        for client in clients.values():
            assert client.heartbeat()
            client.drop_all()
        began = time.monotonic()
        for client in clients.values():
            client.close_client()
        for user, client in clients.items():
            scene.gateway.wait_event("session.close", user=user)
            wait_until(lambda: all(map(port_is_free, client.ports)), 2, "the ports are free")
            assert not client.heartbeat()
        assert time.monotonic() - began < scaled(5)
        for visitor in visitors:
            assert how_closed(visitor) in ("fin", "reset")
            visitor.close()
