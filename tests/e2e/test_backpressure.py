"""Readers that stop: what waits for them is bounded, and nobody else feels them."""
import socket
import threading
import time

import pytest

from harness import (echo_all, how_closed, random_payload, recv_exact, round_trip, rss_kib, scaled, send_until_blocked,
                     tcp, wait_until)

MIB = 1 << 20
GIB = 1 << 30


def settled(read, quiet=0.4, timeout=20.0):
    """Waits until read() has given the same value for `quiet` seconds; returns it."""
    last, since = None, 0.0

    def still():
        nonlocal last, since
        value, now = read(), time.monotonic()
        if value != last:
            last, since = value, now
        return now - since >= scaled(quiet)
    wait_until(still, timeout, "the value does not settle")
    return last


def buffered(gateway):
    return gateway.ctl("status", json=True)["buffered_bytes"]


def assert_as_fast(port, reference, payload, times=20):
    """Compares the best of round trips through two ports, taken in turn, so that a busy machine slows both."""
    best = {port: float("inf"), reference: float("inf")}
    for turn in range(times):
        for one in best:
            began = time.monotonic()
            assert round_trip(one, payload) == payload
            best[one] = min(best[one], time.monotonic() - began)
        if turn >= 4 and best[port] < 1.4 * best[reference]:
            return
    pytest.fail(f"{best[port]:.2f} s at best, {best[reference]:.2f} s through an agent that has nothing else to do")


def narrow(sock):
    """A visitor for whom the kernel keeps little: a thousand would otherwise use up what it has for all of TCP."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    return sock


def thrifty(target):
    """The same for the connections of a target."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        target._listener.setsockopt(socket.SOL_SOCKET, option, 65536)  # inherited by those who are accepted
    return target


@pytest.mark.release
def test_a_visitor_that_stops_reading_costs_little_and_slows_nobody(lab):
    gateway, echo, source = lab.gateway(), lab.echo(), lab.source(random_payload(MIB), total=GIB)
    token = gateway.token_for("alice")
    agent = lab.agent(gateway, token, [tcp("echo", echo), tcp("source", source)])
    idle = lab.agent(gateway, token, [tcp("echo", echo)], instance="idle")
    payload, echo_port = random_payload(16 * MIB), agent.port_of("echo")
    round_trip(echo_port, payload)
    resting = {p: rss_kib(p.pid) for p in (gateway, agent)}

    visitor = lab.visit(agent.port_of("source"))
    got = len(recv_exact(visitor, 256 * MIB))  # first a fast reader, so that its window is as large as it gets
    sent = settled(lambda: source.stats.bytes_out)
    assert sent < GIB / 2
    for program, kib in resting.items():
        assert rss_kib(program.pid) < kib + 32 * 1024, program.name
    assert 0 < buffered(gateway) <= 32 * MIB

    assert_as_fast(echo_port, idle.port_of("echo"), payload)

    visitor.settimeout(scaled(10))
    while part := visitor.recv(4 * MIB):  # nothing is lost
        got += len(part)
    assert got == GIB
    for program, kib in resting.items():
        assert rss_kib(program.pid) < kib + 32 * 1024, program.name
    assert buffered(gateway) == 0


@pytest.mark.release
def test_a_target_that_stops_reading_costs_little_and_slows_nobody(lab):
    gateway, echo, sink = lab.gateway(), lab.echo(), lab.sink()
    token = gateway.token_for("alice")
    agent = lab.agent(gateway, token, [tcp("echo", echo), tcp("sink", sink)])
    idle = lab.agent(gateway, token, [tcp("echo", echo)], instance="idle")
    payload, echo_port = random_payload(16 * MIB), agent.port_of("echo")
    round_trip(echo_port, payload)
    resting = {p: rss_kib(p.pid) for p in (gateway, agent)}

    visitor = lab.visit(agent.port_of("sink"))
    sent = send_until_blocked(visitor, GIB, quiet=0.4)
    assert sent < 64 * MIB
    for program, kib in resting.items():
        assert rss_kib(program.pid) < kib + 32 * 1024, program.name
    assert_as_fast(echo_port, idle.port_of("echo"), payload)

    sink.drain()
    visitor.settimeout(scaled(10))
    while sent < GIB // 2:
        sent += visitor.send(payload)
    visitor.shutdown(socket.SHUT_WR)
    assert how_closed(visitor) == "fin"
    assert sink.stats.bytes_in == sent
    for program, kib in resting.items():
        assert rss_kib(program.pid) < kib + 32 * 1024, program.name


@pytest.mark.release
def test_a_thousand_visitors_that_do_not_read_stay_within_the_bound(lab):
    """Four agents of one user fill the gateway's buffers; another user's visitors do not notice."""
    gateway, echo = lab.gateway(limits={"buffer_mib": 64}), lab.echo()
    source = thrifty(lab.source(bytes(MIB), total=GIB))
    token = gateway.token_for("hog")
    hogs = [lab.agent(gateway, token, [tcp("source", source)], instance=f"i{i}") for i in range(4)]
    alice = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo)])
    payload, echo_port = random_payload(8 * MIB), alice.port_of("echo")
    hog_ports = [hog.port_of("source") for hog in hogs]
    resting = rss_kib(gateway.pid)

    stalled = [narrow(lab.visit(hog_ports[i % 4])) for i in range(1000)]
    peak, served = [resting], 0

    def all_is_sent():
        nonlocal served
        peak.append(rss_kib(gateway.pid))
        assert round_trip(echo_port, payload) == payload
        served += 1
        return source.stats.bytes_out
    settled(all_is_sent, timeout=60)
    assert served > 2
    assert buffered(gateway) <= 64 * MIB
    assert max(peak) < resting + 80 * 1024

    lost = gateway.events_of("visitor.close")
    assert {(e["user"], e["reason"]) for e in lost if e["reason"] != "closed"} == {("hog", "memory")}
    for sock in stalled:
        sock.close()
    wait_until(lambda: gateway.ctl("status", json=True)["visitors"] == 0, 10)
    assert buffered(gateway) == 0
    wait_until(lambda: rss_kib(gateway.pid) < resting + 16 * 1024, 10, "the gateway gives memory back")


@pytest.mark.release
def test_targets_that_do_not_read_stay_within_the_bound_of_the_session(lab):
    gateway, echo, sink = lab.gateway(), lab.echo(), thrifty(lab.sink())
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo), tcp("sink", sink)])
    payload, ports = random_payload(8 * MIB), [agent.port_of(tunnel) for tunnel in ("echo", "sink")]
    resting = {p: rss_kib(p.pid) for p in (gateway, agent)}
    pushing = [narrow(sock) for sock in lab.visits(ports[1], 400)]
    for sock in pushing:
        sock.setblocking(False)
    rest, block = set(pushing), bytes(4 * MIB)

    def all_is_sent():
        for sock in list(rest):
            try:
                sock.send(block)
            except BlockingIOError:
                pass
            except OSError:
                rest.discard(sock)  # reset for memory
        assert round_trip(ports[0], payload) == payload
        return len(rest), len(gateway.events_of("visitor.close", reason="memory"))
    settled(all_is_sent, quiet=1, timeout=60)
    for program, kib in resting.items():
        assert rss_kib(program.pid) < kib + 48 * 1024, program.name
    assert {e["reason"] for e in gateway.events_of("visitor.close") if e["tunnel"] == "sink"} == {"memory"}


class SlowReader(threading.Thread):
    """Reads a little ten times a second, until stopped."""

    def __init__(self, sock):
        super().__init__(daemon=True)
        self.sock, self._halt = sock, threading.Event()
        self.got = 0
        self.start()

    def run(self):
        while not self._halt.wait(0.1):
            self.got += len(recv_exact(self.sock, 64 * 1024))

    def stop(self):
        self._halt.set()
        self.join(scaled(10))


def test_a_stream_that_stalls_is_reset_and_others_are_not(lab):
    gateway, echo, sink = lab.gateway(limits={"stall_seconds": 2}), lab.echo(), lab.sink()
    source = lab.source(bytes(MIB), total=GIB)
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo), tcp("sink", sink), tcp("source", source)])
    idle = lab.visit(agent.port_of("echo"))
    echo_all([idle], b"here")
    slow = SlowReader(lab.visit(agent.port_of("source")))
    deaf = narrow(lab.visit(agent.port_of("source")))
    pushing = lab.visit(agent.port_of("sink"))
    send_until_blocked(pushing, 64 * MIB, quiet=0.3)

    for round_ in (1, 2):  # the second one is as long again for those who must stay
        for visitor, tunnel in ((deaf, "source"), (pushing, "sink")):
            gateway.wait_event("visitor.close", tunnel=tunnel, reason="stalled", count=round_)
            assert how_closed(visitor) == "reset"
        if round_ == 1:
            deaf = narrow(lab.visit(agent.port_of("source")))
            pushing = lab.visit(agent.port_of("sink"))
            send_until_blocked(pushing, 64 * MIB, quiet=0.3)
    slow.stop()
    assert slow.got > 0 and len(recv_exact(slow.sock, MIB)) == MIB
    echo_all([idle], b"still here")
    assert len(gateway.events_of("visitor.close")) == 4
    sink.drain()  # a target that does not read does not see an end either
    wait_until(lambda: sink.stats.open == 0 and source.stats.open == 1)
