"""Targets and visitors that misbehave: the matching end for the one visitor, and nobody else notices."""
import socket
import time

import pytest

from harness import (abort, echo_all, expect_open, fd_count, how_closed, how_visit_ends, recv_exact, round_trip, scaled,
                     send_until_blocked, tcp, wait_all_closed, wait_until)

MIB = 1 << 20


@pytest.fixture
def world(lab):
    """An agent with a good tunnel, a visitor on it, and what a test adds."""
    class World:
        gateway = lab.gateway(limits={"dial_seconds": 1})
        echo = lab.echo()
        token = gateway.token_for("alice")

        def publish(self, **targets):
            """An agent with the tunnels; returns their ports by name."""
            tunnels = [tcp(name, target) for name, target in {"echo": self.echo, **targets}.items()]
            self.agent = lab.agent(self.gateway, self.token, tunnels)
            ports = {tunnel["name"]: self.agent.port_of(tunnel["name"]) for tunnel in tunnels}
            self.bystander = lab.visit(ports["echo"])
            echo_all([self.bystander], b"before")
            return ports

        def visitors(self):
            return self.gateway.ctl("status", json=True)["visitors"]

        def nothing_else_noticed(self):
            echo_all([self.bystander], b"after")
            assert not self.gateway.events_of("session.close") and not self.gateway.events_of("link.close")
            assert not self.agent.events_of("agent.retry")
    return World()


# What a target does

def test_a_target_that_refuses(lab, world):
    ports = world.publish(dead=lab.refused_port())
    assert how_visit_ends(ports["dead"]) == "reset"
    assert how_visit_ends(ports["dead"], b"speaks first") == "reset"
    for nth in (1, 2):
        closed = world.gateway.wait_event("visitor.close", tunnel="dead", count=nth)
        assert closed["reason"] == "refused" and closed["bytes_out"] == 0
    world.nothing_else_noticed()


@pytest.mark.parametrize("how", ["on accept", "on data", "in the middle"])
def test_a_target_that_resets(lab, world, how):
    target = {"on accept": lambda: lab.reset_target(), "on data": lambda: lab.reset_target(on_first_data=True),
              "in the middle": lambda: lab.source(bytes(MIB), total=8 * MIB, then_fin=False)}[how]()
    ports = world.publish(rude=target)
    if how == "in the middle":
        visitor = lab.visit(ports["rude"])
        assert len(recv_exact(visitor, 8 * MIB)) == 8 * MIB
        expect_open(visitor)
        target.reset_all()
        assert how_closed(visitor) == "reset"
    else:
        assert how_visit_ends(ports["rude"], b"hello") == "reset"
    assert world.gateway.wait_event("visitor.close", tunnel="rude")["reason"] == "target_aborted"
    world.nothing_else_noticed()


def test_a_target_that_hangs_in_connect(lab, world):
    ports = world.publish(hole=lab.blackhole())
    began = time.monotonic()
    assert how_visit_ends(ports["hole"], b"hello") == "reset"
    assert 0.9 < time.monotonic() - began < scaled(2)
    assert world.gateway.wait_event("visitor.close", tunnel="hole")["reason"] == "dial_timeout"
    world.nothing_else_noticed()


def test_a_target_whose_name_does_not_exist(world):
    ports = world.publish(nowhere="no-such-host.invalid:80")
    assert how_visit_ends(ports["nowhere"], b"hello") == "reset"
    assert world.gateway.wait_event("visitor.close", tunnel="nowhere")["reason"] in ("unreachable", "dial_timeout")
    world.nothing_else_noticed()


def test_a_target_without_a_route(world):
    ports = world.publish(nowhere="255.255.255.255:80")
    assert how_visit_ends(ports["nowhere"], b"hello") == "reset"
    assert world.gateway.wait_event("visitor.close", tunnel="nowhere")["reason"] == "unreachable"
    world.nothing_else_noticed()


def test_a_crowd_on_a_target_that_hangs_leaves_room_for_the_others(lab, world):
    ports = world.publish(hole=lab.blackhole(), hole2=lab.blackhole())
    mark = world.gateway.mark()
    crowd = lab.visits(ports["hole"], 300)
    world.gateway.wait_event("visitor.open", since=mark, tunnel="hole", count=192)
    for _ in range(20):  # others, new ones too, are served in the meantime
        assert round_trip(ports["echo"], b"in time") == b"in time"
    assert not world.gateway.events_of("visitor.close", tunnel="hole")
    assert len(world.gateway.events_of("visitor.open", tunnel="hole")) == 192  # the rest waits to be accepted
    second = lab.visits(ports["hole2"], 100)
    world.gateway.wait_event("visitor.open", since=mark, tunnel="hole2", count=64)

    assert wait_all_closed(crowd + second, 10) == ["reset"] * 400
    reasons = {e["reason"] for e in world.gateway.events_of("visitor.close") if e["tunnel"].startswith("hole")}
    assert reasons == {"dial_timeout"}
    wait_until(lambda: world.visitors() == 1)
    world.nothing_else_noticed()


def test_a_visitor_who_leaves_while_the_target_hangs(lab, world):
    ports = world.publish(hole=lab.blackhole())
    visitor = lab.visit(ports["hole"])
    world.gateway.wait_event("visitor.open", tunnel="hole")
    abort(visitor)
    closed = world.gateway.wait_event("visitor.close", tunnel="hole")
    assert closed["reason"] == "visitor_aborted" and closed["seconds"] < 0.9
    world.nothing_else_noticed()


# What a visitor does

def descriptors(world):
    return [fd_count(program.pid) for program in (world.gateway, world.agent)]


def leave_before_data(lab, ports, echo, _sink, _source):
    visitor = lab.visit(ports["echo"])
    wait_until(lambda: echo.stats.open == 2)
    return visitor, echo


def leave_in_the_middle(lab, ports, echo, _sink, _source):
    visitor = lab.visit(ports["echo"])
    visitor.sendall(bytes(MIB))
    recv_exact(visitor, MIB // 2)
    return visitor, echo


def leave_after_the_fin(lab, ports, _echo, _sink, source):
    """The target goes on sending when the visitor has ended his side."""
    visitor = lab.visit(ports["source"])
    visitor.shutdown(socket.SHUT_WR)
    recv_exact(visitor, 4 * MIB)
    wait_until(lambda: source.stats.fins == 1)
    return visitor, source


def leave_while_paused(lab, ports, _echo, sink, _source):
    """The gateway has no credit for more, so nobody reads from the visitor's socket."""
    visitor = lab.visit(ports["sink"])
    send_until_blocked(visitor, 64 * MIB, quiet=0.2)
    return visitor, sink


@pytest.mark.parametrize("stage", [leave_before_data, leave_in_the_middle, leave_after_the_fin, leave_while_paused])
def test_a_visitor_who_aborts(lab, world, stage):
    sink, source = lab.sink(), lab.source(bytes(MIB), total=1 << 34)
    source.on_fin = lambda connection: None  # it goes on sending
    ports = world.publish(sink=sink, source=source)
    wait_until(lambda: world.echo.stats.open == 1)
    before = descriptors(world)
    mark = world.gateway.mark()
    visitor, target = stage(lab, ports, world.echo, sink, source)
    open_before = target.stats.open
    abort(visitor)
    closed = world.gateway.wait_event("visitor.close", since=mark, timeout=3)
    assert closed["reason"] == "visitor_aborted"
    if target is sink:
        sink.drain()  # what it gets is not all, and it sees that
    wait_until(lambda: target.stats.open == open_before - 1, 3, "the target sees the end")
    assert target.stats.resets == 1
    wait_until(lambda: world.visitors() == 1 and descriptors(world) == before, 3, "nothing leaks")
    world.nothing_else_noticed()


def test_visitors_who_come_and_abort_within_one_moment(lab, world):
    """Their streams are opened and reset in one go, more than there are slots, so that slots are used again at once."""
    ports = world.publish()
    world.gateway.freeze()
    for visitor in lab.visits(ports["echo"], 150):
        abort(visitor)
    world.gateway.thaw()
    world.gateway.wait_event("visitor.close", count=150)
    assert {e["reason"] for e in world.gateway.events_of("visitor.close")} == {"visitor_aborted"}
    world.nothing_else_noticed()


def test_aborts_of_a_crowd_leak_nothing(lab, world):
    source = lab.source(bytes(MIB), total=1 << 34)
    ports = world.publish(source=source)
    before = descriptors(world)
    for _ in range(3):
        crowd = lab.visits(ports["echo"], 100) + lab.visits(ports["source"], 100)
        for visitor in crowd[:50]:
            visitor.sendall(bytes(1000))
        for visitor in crowd:
            abort(visitor)
        wait_until(lambda: world.visitors() == 1 and descriptors(world) == before, 10, "nothing leaks")
    wait_until(lambda: source.stats.open == 0 and world.echo.stats.open == 1)
    reasons = {e["reason"] for e in world.gateway.events_of("visitor.close")}
    assert reasons == {"visitor_aborted"}
    world.nothing_else_noticed()


def test_a_cut_link_resets_what_was_under_way_at_both_ends(lab, world):
    """Nobody takes half a transfer for a whole one."""
    source = lab.source(bytes(MIB), total=1 << 34)
    proxy = lab.link_proxy(world.gateway)
    agent = lab.agent(world.gateway, world.token, [tcp("echo", world.echo), tcp("source", source)], server=proxy.address)
    visitors = [lab.visit(agent.port_of(tunnel)) for tunnel in ("echo", "source")]
    echo_all(visitors[:1], b"here")
    recv_exact(visitors[1], MIB)
    proxy.cut()
    assert wait_all_closed(visitors, 2) == ["reset", "reset"]
    wait_until(lambda: source.stats.resets == 1 and world.echo.stats.resets == 1)
