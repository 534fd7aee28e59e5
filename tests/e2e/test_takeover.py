"""Runs of one user and instance that take each other's place, and instances that live side by side."""
import socket
import threading

import pytest

from harness import (connect, echo_all, how_closed, port_is_free, recv_exact, round_trip, scaled, tcp, wait_all_closed,
                     wait_until)


class Caller:
    """A visitor who comes again and again on a thread of its own and tells how each visit went."""

    def __init__(self, port):
        self._port, self._over = port, False
        self.echoed, self.reset, self.odd = 0, 0, []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._over:
            try:
                self._visit()
            except ConnectionResetError:
                self.reset += 1  # the session of this visit ended
            except Exception as failure:
                self.odd.append(failure)

    def _visit(self):
        with connect(self._port) as sock:
            sock.sendall(b"anybody there?")
            assert recv_exact(sock, 14) == b"anybody there?"
        self.echoed += 1

    def expect_served(self):
        before = self.echoed
        wait_until(lambda: self.echoed > before + 1 or self.odd, 10, "a visit succeeds")

    def finish(self):
        """Asserts that at no moment the port was closed or the visit went nowhere."""
        self._over = True
        self._thread.join()
        assert not self.odd, f"{len(self.odd)} visits failed: {self.odd[0]!r}"


@pytest.mark.tsan
def test_ports_move_to_the_newer_run_without_being_closed(lab):
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    tunnels = [tcp("a", echo), tcp("b", echo), tcp("c", echo, port=gateway.ports[7])]
    older = lab.agent(gateway, token, tunnels)
    ports = {tunnel["name"]: older.port_of(tunnel["name"]) for tunnel in tunnels}
    callers = [Caller(port) for port in ports.values()]
    streams = [lab.visit(port) for port in ports.values()]
    echo_all(streams, b"hello")
    for caller in callers:
        caller.expect_served()

    newer = lab.agent(gateway, token, list(reversed(tunnels)))
    older.expect_exit(4)
    assert set(wait_all_closed(streams, 1.0)) == {"reset"}
    assert {name: newer.port_of(name) for name in ports} == ports
    for caller in callers:
        caller.expect_served()
        caller.finish()

    warning = gateway.wait_event("session.takeover", level="warn", user="alice", instance="default")
    peers = [event["peer"] for event in gateway.events_of("session.open")]
    assert [warning["older_peer"], warning["peer"]] == peers
    gateway.wait_event("session.close", user="alice", reason="takeover")
    assert len(gateway.sessions()) == 1


def test_back_and_forth(lab):
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    agents = [lab.agent(gateway, token, [tcp("echo", echo)]), lab.agent(gateway, token, [tcp("echo", echo)], start=False)]
    port = agents[0].port_of("echo")
    caller = Caller(port)
    for turn in range(1, 5):
        newer, older = agents[turn % 2], agents[1 - turn % 2]
        newer.start()
        older.expect_exit(4)
        assert newer.port_of("echo") == port
    caller.expect_served()
    caller.finish()
    assert [session["id"] for session in gateway.sessions()] == [5]


def test_a_crowd_of_runs_leaves_one(lab):
    """All at once: a run may be displaced before it has asked for its tunnels, or while they are being opened."""
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    for instance in ("one", "two", "three"):
        first = lab.agent(gateway, token, [tcp("a", echo), tcp("b", echo)], instance=instance)
        ports = [first.port_of("a"), first.port_of("b")]
        callers = [Caller(port) for port in ports]
        crowd = [first, *(lab.agent(gateway, token, [tcp("a", echo), tcp("b", echo)], instance=instance)
                          for _ in range(4))]
        wait_until(lambda: sum(agent.running for agent in crowd) == 1, what="one run is left")
        for agent in crowd:
            if not agent.running:
                agent.expect_exit(4)
        last = next(agent for agent in crowd if agent.running)
        assert [last.port_of("a"), last.port_of("b")] == ports
        for caller in callers:
            caller.expect_served()
            caller.finish()
        last.stop()
        wait_until(lambda: all(map(port_is_free, ports)), 2, "nothing holds on to the ports")
        # Nor in the gateway's books: somebody else gets them.
        other = lab.agent(gateway, token, [tcp("x", echo, port=ports[0], strict_port=True),
                                           tcp("y", echo, port=ports[1], strict_port=True)], instance="other")
        assert [other.port_of("x"), other.port_of("y")] == ports
        other.stop()


def test_after_five_in_a_minute_the_newer_is_refused(lab):
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    agents = [lab.agent(gateway, token, [tcp("echo", echo)], start=False) for _ in range(2)]
    port = agents[0].start().port_of("echo")
    for turn in range(1, 6):
        agents[turn % 2].start()
        agents[1 - turn % 2].expect_exit(4)
        assert agents[turn % 2].port_of("echo") == port
    stays, refused = agents[1], agents[0]
    stream = lab.visit(port)
    echo_all([stream], b"hello")
    since = gateway.mark()

    refused.start()
    gateway.wait_event("auth.fail", since=since, user="alice", reason="instance_busy")
    retry = refused.wait_event("agent.retry", reason=lambda r: r.startswith("instance_busy"))
    assert 50 < retry["seconds"] <= 60
    echo_all([stream], b"undisturbed")
    assert not gateway.events_of("session.takeover", since=since)

    # Another instance has nothing to do with it, and nobody is displaced when the one that was there has died.
    lab.agent(gateway, token, [tcp("echo", echo)], instance="other").port_of("echo")
    stays.kill9()
    assert stays.start().port_of("echo") == port


def test_a_killed_agent_that_starts_anew_is_no_fight(lab):
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", lab.echo())])
    port = agent.port_of("echo")
    for _ in range(7):
        agent.kill9()
        agent.start()
        assert agent.port_of("echo", timeout=5) == port
        assert not agent.events_of("agent.retry")
    assert round_trip(port, b"still here") == b"still here"
    assert not gateway.events_of("session.takeover", level="warn") and not gateway.events_of("auth.fail")


def test_a_frozen_run_hears_that_it_was_replaced(lab):
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    older = lab.agent(gateway, token, [tcp("echo", echo)])
    port = older.port_of("echo")
    older.freeze()
    newer = lab.agent(gateway, token, [tcp("echo", echo)])
    assert newer.port_of("echo", timeout=5) == port
    stream = lab.visit(port)
    echo_all([stream], b"hello")
    older.thaw()
    older.expect_exit(4)
    echo_all([stream], b"undisturbed")


def test_a_run_with_a_full_link_hears_that_it_was_replaced(lab):
    """The last word comes behind all that waits on the link, or the older would come back and fight."""
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    tunnels = [tcp("up", lab.discard()), tcp("echo", echo)]
    older = lab.agent(gateway, token, tunnels)
    port, visitors = older.port_of("echo"), lab.visits(older.port_of("up"), 30)
    wait_until(lambda: gateway.sessions()[0]["visitors"] == 30, what="all visitors are there")
    older.freeze()
    for visitor in visitors:
        send_until_full(visitor)
    newer = lab.agent(gateway, token, tunnels)
    gateway.wait_event("session.takeover")
    older.thaw()  # at once: what a closed link has left is not kept for long
    older.expect_exit(4)
    assert newer.port_of("echo") == port
    assert not older.events_of("agent.retry") and len(gateway.events_of("session.takeover")) == 1
    assert round_trip(port, b"undisturbed") == b"undisturbed"


def send_until_full(sock):
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass


def test_a_run_under_full_load_hears_that_it_was_replaced(lab):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    tunnels = [tcp("up", lab.discard()), tcp("down", lab.source(bytes(65536), total=1 << 40))]
    older = lab.agent(gateway, token, tunnels)
    over = threading.Event()

    def push(sock):
        try:
            while not over.is_set():
                sock.sendall(bytes(65536))
        except OSError:
            pass  # the session of this visit ended

    def pull(sock):
        try:
            while not over.is_set():
                assert sock.recv(65536)
        except OSError:
            pass
    threads = [threading.Thread(target=function, args=(lab.visit(older.port_of(name)),), daemon=True)
               for function, name in [(push, "up"), (pull, "down")] * 3]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(s["bytes_in"] + s["bytes_out"] for s in gateway.sessions()) > 1 << 24, what="traffic")
    newer = lab.agent(gateway, token, tunnels)
    older.expect_exit(4)
    newer.port_of("up")
    over.set()
    for thread in threads:
        thread.join(scaled(10))
    assert not older.events_of("agent.retry") and len(gateway.events_of("session.takeover")) == 1


# Instances

def test_instances_live_side_by_side(lab):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    names = ["home", "office", "desk"]
    answers = {name: f"this is {name}".encode() for name in names}
    agents = {name: lab.agent(gateway, token, [tcp("who", lab.source(answers[name]))], instance=name) for name in names}
    ports = {name: agents[name].port_of("who") for name in names}
    assert len(set(ports.values())) == 3
    for name in names:
        assert recv_exact(lab.visit(ports[name]), len(answers[name])) == answers[name]
    assert {s["instance"] for s in gateway.sessions()} == set(names)
    assert not gateway.events_of("session.takeover")


def test_the_limit_of_instances(lab):
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    gateway.ctl("user", "limit", "alice", "--instances", "2")
    one, two = (lab.agent(gateway, token, [tcp("echo", echo)], instance=name, connected=True) for name in ("one", "two"))
    three = lab.agent(gateway, token, [tcp("echo", echo)], instance="three")
    gateway.wait_event("auth.fail", user="alice", reason="limit")
    three.wait_event("agent.retry", reason=lambda r: r.startswith("limit"))
    # A newer run of an instance that is there is no further instance.
    again = lab.agent(gateway, token, [tcp("echo", echo)], instance="two")
    again.port_of("echo")
    two.expect_exit(4)
    one.stop()
    three.wait_event("agent.connected", timeout=20)


def test_a_lower_limit_of_instances_ends_the_newest(lab):
    gateway, echo = lab.gateway(), lab.echo()
    token = gateway.token_for("alice")
    agents = [lab.agent(gateway, token, [tcp("echo", echo)], instance=name, connected=True) for name in ("one", "two")]
    streams = [lab.visit(agent.port_of("echo")) for agent in agents]
    echo_all(streams, b"hello")
    gateway.ctl("user", "limit", "alice", "--instances", "1")
    assert how_closed(streams[1], 1.0) == "reset"
    agents[1].wait_event("agent.retry", reason=lambda r: r.startswith("limit"))
    streams[0].sendall(b"still here")
    assert recv_exact(streams[0], 10) == b"still here"
    assert streams[0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    gateway.ctl("user", "limit", "alice", "--instances", "default")
    agents[1].wait_event("agent.connected", count=2, timeout=20)
