"""UDP tunnels under load: who ends when, floods, congested links, revocation, and the streams beside them."""
import resource
import signal
import socket
import struct
import threading
import time

import pytest

from harness import (UdpTarget, ask, recv_exact, round_trip, rss_kib, scaled, silent, tcp, udp, udp_visitor, wait_until)


def flows_of(gateway):
    return gateway.ctl("status", json=True)["flows"]


def dropped_by(gateway):
    return gateway.ctl("status", json=True)["datagrams_dropped"]


class Picky(UdpTarget):
    """Echoes what begins with "ask", says nothing to anything else."""

    def on_datagram(self, data, peer):
        if data.startswith(b"ask"):
            self.send(data, peer)


class Flood:
    """Datagrams from ever new sources, as far as loopback has them. Nobody waits for answers."""

    def __init__(self, port, payload=b"flood"):
        self._port, self._payload, self.sent = port, payload, 0

    def __call__(self, sources, per_source):
        for n in range(sources):
            address = "127.%d.%d.%d" % (1 + (n >> 14 & 63), 1 + (n >> 7 & 127), 1 + (n & 127))
            for _ in range(per_source):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind((address, 0))
                    sock.sendto(self._payload, ("127.0.0.1", self._port))
                self.sent += 1


# ---- silence ----

@pytest.mark.parametrize("how", ["gateway", "tunnel"])
def test_a_late_answer_of_the_target_reaches_nobody(lab, how):
    gateway = lab.gateway(limits={"udp_idle_seconds": 1 if how == "gateway" else 86400})
    target = lab.udp_target()
    more = {"idle_seconds": 1} if how == "tunnel" else {}
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", target, **more)])
    visitor = lab.udp_visit(agent.port_of("t"))
    visitor.send(b"question")
    [peer] = wait_until(lambda: list(target.peers), what="the question came")
    target.send(b"answer", peer)
    assert visitor.recv(100) == b"answer"
    gateway.wait_event("visitor.close", tunnel="t", reason="idle")
    wait_until(lambda: udp_is_closed(peer), what="the agent has closed the flow's socket")
    target.send(b"late answer", peer)
    assert silent(visitor, 0.3)
    visitor.send(b"another question")
    wait_until(lambda: len(target.peers) == 2, what="it is another flow")


def udp_is_closed(peer):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(peer)
        except OSError:
            return False
    return True


def test_answers_alone_keep_a_flow(lab):
    gateway = lab.gateway()
    target = lab.udp_target()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", target, idle_seconds=2)])
    visitor = lab.udp_visit(agent.port_of("t"))
    visitor.send(b"subscribe")
    [peer] = wait_until(lambda: list(target.peers), what="the visitor has come")
    until = time.monotonic() + scaled(2) + 3
    while time.monotonic() < until:
        target.send(b"news", peer)
        assert visitor.recv(100) == b"news"
        time.sleep(0.2)
    assert not gateway.events_of("visitor.close")
    gateway.wait_event("visitor.close", reason="idle", timeout=5)


def test_a_flow_without_an_answer_ends_after_ten_seconds(lab):
    gateway = lab.gateway()
    target = lab.add_target(Picky())
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", target)])
    answered, unanswered = (lab.udp_visit(agent.port_of("t")) for _ in range(2))
    unanswered.send(b"say something")
    assert ask(answered, b"ask") == b"ask"
    closed = gateway.wait_event("visitor.close", reason="idle", timeout=15)
    assert closed["peer"].endswith(":%d" % unanswered.getsockname()[1]) and 9.9 < closed["seconds"] < 10 + scaled(2)
    assert flows_of(gateway) == 1


# ---- limits ----

def test_one_source_has_two_thousand_flows(lab):
    gateway = lab.gateway()
    target = lab.add_target(Picky())
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", target)])
    port = agent.port_of("t")
    elsewhere = udp_visitor(port, bind="127.0.0.77")
    assert ask(elsewhere, b"ask first") == b"ask first"
    regulars = [lab.udp_visit(port) for _ in range(20)]
    assert all(ask(visitor, b"ask") == b"ask" for visitor in regulars)
    crowd = [lab.udp_visit(port) for _ in range(2100)]
    for at, visitor in enumerate(crowd):
        visitor.send(b"nobody answers this")
        if at % 100 == 99:
            assert ask(regulars[0], b"ask", wanted=b"ask")
    wait_until(lambda: flows_of(gateway) == 2001, what="2,000 and the one from elsewhere")
    # Who was answered has kept his flow: the others made room.
    displaced = gateway.wait_event("visitor.close", reason="displaced")
    assert displaced["bytes_out"] == 0
    before = len(target.peers)
    assert all(ask(visitor, b"ask still", wanted=b"ask still") for visitor in [*regulars, elsewhere])
    assert len(target.peers) == before
    elsewhere.close()


def test_the_oldest_idle_flow_makes_room(lab):
    """All of them were answered: whoever has been silent longest goes."""
    gateway = lab.gateway()
    echo = lab.udp_echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", echo)])
    port = agent.port_of("echo")
    visitors = [lab.udp_visit(port) for _ in range(2000)]
    for visitor in visitors:
        assert ask(visitor, b"one by one")
    assert ask(visitors[0], b"again", wanted=b"again")
    extra = lab.udp_visit(port)
    assert ask(extra, b"is there room?") == b"is there room?"
    gateway.wait_event("visitor.close", reason="displaced", peer="127.0.0.1:%d" % visitors[1].getsockname()[1])
    assert flows_of(gateway) == 2000 and len(echo.peers) == 2001
    assert ask(visitors[0], b"spared", wanted=b"spared") and len(echo.peers) == 2001


@pytest.mark.slow
def test_a_flood_of_sources_does_not_end_answered_flows(lab):
    """Ten thousand flows are a tunnel's; memory, log and the other visitors do not notice the rest."""
    gateway = lab.gateway()
    target = lab.add_target(Picky())
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", target), tcp("echo", lab.echo())])
    port = agent.port_of("t")
    regulars = [lab.udp_visit(port) for _ in range(50)]
    assert all(ask(visitor, b"ask") == b"ask" for visitor in regulars)
    flood = Flood(port)
    flood(4000, 3)  # the table is full
    wait_until(lambda: flows_of(gateway) == 10000, 20, "the table is full")
    flood(5000, 4)
    assert flows_of(gateway) <= 10000
    for visitor in regulars:
        assert ask(visitor, b"ask on", wanted=b"ask on")
    closed = {event["peer"] for event in gateway.events_of("visitor.close")}
    assert not closed & {"127.0.0.1:%d" % visitor.getsockname()[1] for visitor in regulars}
    lines = len(gateway.events_of("visitor.open"))
    assert lines < 2000, "a flood of visitors is no flood of lines"
    counted = gateway.wait_event("visitor.flood")["count"]
    assert counted > 0
    assert round_trip(agent.port_of("echo"), b"beside it") == b"beside it"


# ---- congestion ----

def pour(visitor, count):
    """Numbered datagrams of 1,200 bytes, no faster than the kernel's buffer is read."""
    for at in range(count):
        visitor.send(struct.pack(">I", at) + bytes(1196))
        if at % 64 == 63:
            time.sleep(0.001)


def test_a_link_that_stands_still(lab):
    """What waits is bounded, the oldest go, all are counted; streams and the newest go on afterwards."""
    gateway = lab.gateway()
    proxy = lab.link_proxy(gateway)
    target = lab.udp_target()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", target), tcp("echo", lab.echo())],
                      server=proxy.address)
    visitor, stream = lab.udp_visit(agent.port_of("t")), lab.visit(agent.port_of("echo"))
    visitor.send(b"first")
    wait_until(lambda: target.count == 1)
    stream.sendall(b"before")
    assert recv_exact(stream, 6) == b"before"
    proxy.freeze()
    pour(visitor, 20000)
    status = gateway.ctl("status", json=True)
    assert status["buffered_bytes"] <= 1 << 20
    dropped = status["datagrams_dropped"]
    assert dropped > 10000
    assert gateway.wait_event("datagram.drop", user="alice", timeout=15)["congested"] > 0
    stream.sendall(b"while it stood")
    proxy.thaw()
    assert recv_exact(stream, 14) == b"while it stood"
    visitor.send(b"last")
    count = target.count
    wait_until(lambda: target.count > count, what="datagrams come again")
    session = gateway.sessions()[0]
    assert session["datagrams_dropped"] >= dropped


@pytest.mark.release
def test_floods_leave_memory_where_it_was(lab):
    gateway = lab.gateway()
    proxy = lab.link_proxy(gateway)
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", lab.udp_target()), udp("echo", lab.udp_echo())],
                      server=proxy.address)
    ports = agent.port_of("t"), agent.port_of("echo")
    visitor = lab.udp_visit(ports[1])

    def everything():
        for size in (0, 200, 65507):
            assert ask(visitor, bytes(size), wanted=bytes(size)) == bytes(size)
        flood = Flood(ports[0])
        flood(3000, 4)
        proxy.freeze()
        pour(visitor, 20000)
        flood(3000, 4)
        proxy.thaw()
        assert ask(visitor, b"after", wanted=b"after")
        return rss_kib(gateway.pid), rss_kib(agent.pid)
    for _ in range(4):  # until there was a round with all ten thousand flows at once
        before = everything()
    for _ in range(3):
        after = everything()
    assert after[0] < before[0] + 2048 and after[1] < before[1] + 2048, (before, after)


def download_speed(stream, seconds):
    """Bytes a second that come, after a while in which it finds its pace."""
    got, began, until = 0, None, time.monotonic() + 1 + seconds
    while (now := time.monotonic()) < until:
        part = len(stream.recv(65536))
        if began is None and now > until - seconds:
            began = now
        got += part if began else 0
    return got / (time.monotonic() - began)


@pytest.mark.parametrize("size", [200, 1400, 60000])
def test_streams_keep_half_of_the_link(lab, size):
    """The link is the narrow place. Answers flood it, and a download shares it."""
    rate = 4 << 20
    gateway = lab.gateway()
    proxy = lab.link_proxy(gateway)
    proxy.limit(rate)
    target = lab.udp_target()
    agent = lab.agent(gateway, gateway.token_for("alice"),
                      [udp("u", target), tcp("source", lab.source(bytes(65536), total=1 << 40))], server=proxy.address)
    visitor, stream = lab.udp_visit(agent.port_of("u")), lab.visit(agent.port_of("source"))
    visitor.send(b"pour")
    [peer] = wait_until(lambda: list(target.peers))
    alone = download_speed(stream, 3)
    over = threading.Event()

    def flood():
        payload = bytes(size)
        while not over.is_set():
            for _ in range(max(1, rate // 50 // size)):  # more than twice what the link has, in fifty parts a second
                try:
                    target.send(payload, peer)
                except OSError:
                    pass
            time.sleep(0.008)
    pourer = threading.Thread(target=flood, daemon=True)
    pourer.start()
    try:
        shared = download_speed(stream, 3)
    finally:
        over.set()
        pourer.join()
    assert alone > rate * 0.5, "the link alone"
    assert shared > alone * 0.5, f"{shared / alone:.0%} of the speed are left"
    assert agent.wait_event("datagram.drop", timeout=15)["count"] > 0


# ---- revocation, takeover, lost links ----

class Scene:
    """Alice with a hundred flows that were answered, and a target that goes on talking to each of them."""

    def __init__(self, lab, **token_options):
        self.gateway = lab.gateway()
        self.target = lab.udp_echo()
        self.token = self.gateway.token_for("alice", **token_options)
        self.agent = lab.agent(self.gateway, self.token, [udp("echo", self.target)])
        self.port = self.agent.port_of("echo")
        self.visitors = [lab.udp_visit(self.port) for _ in range(100)]
        assert all(ask(visitor, b"hello") for visitor in self.visitors)

    def expect_closed(self, timeout=1.0):
        """Nothing is bound to the port any more, and no flow is left."""
        wait_until(lambda: udp_is_closed(("127.0.0.1", self.port)), timeout, "the port is free")
        for visitor in self.visitors:
            with pytest.raises(ConnectionRefusedError):
                visitor.send(b"anybody there?")
                visitor.recv(100)
        wait_until(lambda: all(map(udp_is_closed, self.target.peers)), timeout, "the agent has closed its sockets")


@pytest.mark.parametrize("command, reason", [
    (["user", "ban", "alice"], "banned"),
    (["token", "revoke"], "revoked"),
    (["user", "remove", "alice"], "removed"),
    (["session", "kick", "alice"], "kicked"),
], ids=["ban", "revoke", "remove", "kick"])
def test_revocation_ends_flows_within_a_second(lab, command, reason):
    scene = Scene(lab)
    if reason == "kicked":
        scene.agent.signal(signal.SIGSTOP)  # it would be back at once
    scene.gateway.ctl(*command, *([scene.token.split("_")[1]] if command[1] == "revoke" else []))
    if reason == "kicked":
        wait_until(lambda: udp_is_closed(("127.0.0.1", scene.port)), 1.0, "the port is free")
        scene.agent.signal(signal.SIGCONT)
        assert scene.agent.port_of("echo", since=scene.agent.mark()) == scene.port
        return
    scene.expect_closed()
    scene.gateway.wait_event("session.close", reason=reason)
    assert len(scene.gateway.events_of("visitor.close", reason="session_ended")) == 100
    scene.agent.expect_exit(3)


def test_a_token_that_expires_ends_flows(lab):
    scene = Scene(lab, expires="4s")
    scene.gateway.wait_event("session.close", reason="expired", timeout=8)
    scene.expect_closed()
    scene.agent.expect_exit(3)


@pytest.mark.tsan
def test_a_takeover_keeps_the_port_open(lab):
    scene = Scene(lab)
    caller, over, refused, answers = lab.udp_visit(scene.port), threading.Event(), [], []

    def call():
        while not over.is_set():
            try:
                caller.send(b"anybody there?")
                caller.settimeout(0.05)
                answers.append(caller.recv(100))
            except TimeoutError:
                pass
            except ConnectionRefusedError as error:
                refused.append(error)
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    for _ in range(3):
        older = scene.agent
        scene.agent = lab.agent(scene.gateway, scene.token, [udp("echo", scene.target)])
        assert scene.agent.port_of("echo") == scene.port
        older.expect_exit(4)
        before = len(answers)
        wait_until(lambda: len(answers) > before + 1, what="the newer one answers")
    over.set()
    thread.join()
    assert not refused, "at no moment the port was closed"
    wait_until(lambda: len(scene.gateway.sessions()) == 1)


def test_a_lost_link_loses_no_port(lab):
    gateway = lab.gateway()
    proxy = lab.link_proxy(gateway)
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", lab.udp_echo())], server=proxy.address)
    port = agent.port_of("echo")
    visitor = lab.udp_visit(port)
    assert ask(visitor, b"before") == b"before"
    since = gateway.mark()
    proxy.cut()
    visitor.send(b"meanwhile")  # waits in the kernel's buffer
    assert visitor.recv(100) == b"meanwhile"
    gateway.wait_event("session.resume", since=since)
    gateway.wait_event("visitor.close", since=since, reason="link_lost")
    assert gateway.sessions()[0]["flows"] == 1


def test_more_flows_than_descriptors(lab):
    """The agent has fewer descriptors than visitors: those without an answer make room, and nobody is harmed."""
    gateway = lab.gateway()
    target = lab.add_target(Picky())
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("t", target), tcp("echo", lab.echo())])
    port = agent.port_of("t")
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (200, 200))
    regulars = [lab.udp_visit(port) for _ in range(20)]
    assert all(ask(visitor, b"ask") == b"ask" for visitor in regulars)
    crowd = [lab.udp_visit(port) for _ in range(400)]
    for visitor in crowd:
        visitor.send(b"nobody answers this")
    wait_until(lambda: target.count >= 420, what="all of them were heard")
    before = len(target.peers)
    assert all(ask(visitor, b"ask still", wanted=b"ask still") for visitor in regulars)
    assert len(target.peers) == before, "who was answered has kept his flow"
    assert flows_of(gateway) < 250
