"""Peers that die, freeze or lose each other: ports are free in time, and whoever comes back finds what he had."""
import time

import pytest

from harness import (Target, echo_all, expect_reset, how_closed, listening_ports, port_is_free, random_payload, round_trip,
                     scaled, tcp, wait_all_closed, wait_until)

DEAD = 3
QUICK = {"heartbeat_seconds": 1, "dead_seconds": DEAD}


def free_within(port, seconds, began):
    """Asserts that the port becomes free within `seconds` of `began`."""
    wait_until(lambda: port_is_free(port), seconds + 5, "the port is free")
    took = time.monotonic() - began
    assert took < scaled(seconds + 0.5), f"the port was free after {took:.2f} s"


def is_served(port):
    """Whether the echo behind the port answers now."""
    try:
        return round_trip(port, b"anybody there?") == b"anybody there?"
    except OSError:
        return False


@pytest.fixture
def pair(lab):
    """A gateway that finds the dead quickly, an agent behind a proxy, its visitor."""
    class Pair:
        gateway = lab.gateway(limits=QUICK)
        token = gateway.token_for("alice")
        echo = lab.echo()
        proxy = lab.link_proxy(gateway)
        agent = lab.agent(gateway, token, [tcp("echo", echo)], server=proxy.address)
        port = agent.port_of("echo")
        visitor = lab.visit(port)

        def another_agent(self):
            """Another run of the same user and instance, past the proxy."""
            return lab.agent(self.gateway, self.token, [tcp("echo", self.echo)])
    echo_all([Pair.visitor], b"alive")
    return Pair()


# The agent's end

def test_a_killed_agent_frees_its_port(pair):
    began = time.monotonic()
    pair.agent.kill9()
    assert wait_all_closed([pair.visitor], 1.0) == ["reset"]
    free_within(pair.port, DEAD, began)
    pair.gateway.wait_event("visitor.close", reason="link_lost")
    pair.gateway.wait_event("session.close", user="alice")


def test_after_a_kill_the_user_gets_the_port_at_once(pair):
    began = time.monotonic()
    pair.agent.kill9()
    again = pair.another_agent()
    assert again.port_of("echo") == pair.port
    assert time.monotonic() - began < scaled(1.5)
    assert round_trip(pair.port, b"again") == b"again"
    takeover = pair.gateway.wait_event("session.takeover", user="alice")
    assert takeover["level"] == "info"  # nobody was displaced


def test_a_frozen_agent_frees_its_port_and_comes_back(pair):
    began = time.monotonic()
    pair.agent.freeze()
    free_within(pair.port, DEAD, began)
    closed = pair.gateway.wait_event("session.close", user="alice")
    assert closed["reason"].startswith("dead")
    expect_reset(pair.visitor, 1.0)
    pair.agent.thaw()
    wait_until(lambda: is_served(pair.port), 20)


def test_another_run_takes_the_port_of_a_frozen_agent_at_once(lab):
    gateway, echo = lab.gateway(), lab.echo()  # with the preset of 45 s until a silent link counts as dead
    token = gateway.token_for("alice")
    frozen = lab.agent(gateway, token, [tcp("echo", echo)])
    port = frozen.port_of("echo")
    frozen.freeze()
    newer = lab.agent(gateway, token, [tcp("echo", echo)])
    assert newer.port_of("echo", timeout=2) == port
    assert round_trip(port, b"newer") == b"newer"
    gateway.wait_event("session.takeover", level="warn", user="alice")
    frozen.thaw()
    frozen.expect_exit(4)
    assert round_trip(port, b"still") == b"still"


# The link

def test_a_run_resumes_its_session_after_a_cut(lab, pair):
    session = pair.gateway.wait_event("session.open")["session"]
    mark, agent_mark = pair.gateway.mark(), pair.agent.mark()
    pair.proxy.cut()
    between = lab.visit(pair.port)  # waits in the queue of a listener that nobody closes
    between.sendall(b"between")
    expect_reset(pair.visitor, 1.0)  # its bytes may be lost
    pair.agent.wait_event("agent.connected", since=agent_mark)
    assert pair.gateway.wait_event("session.resume", since=mark)["session"] == session
    assert between.recv(7) == b"between"
    assert [s["id"] for s in pair.gateway.sessions()] == [session]
    assert not pair.gateway.events_of("tunnel.close")
    assert not pair.gateway.events_of("session.close")
    assert len(pair.gateway.events_of("tunnel.open")) == 1


def test_a_run_that_comes_back_before_the_gateway_noticed(lab, pair):
    """The agent's half of the link is cut, the gateway's stays there, silent: as when an address behind NAT changes."""
    session, proxy = pair.gateway.wait_event("session.open")["session"], pair.proxy
    mark, agent_mark = pair.gateway.mark(), pair.agent.mark()
    proxy.call(lambda: [Target._drop(proxy, c, reset=True) for c in list(proxy._connections)
                        if c.sock.getsockname()[1] == proxy.port])
    pair.agent.wait_event("agent.connected", since=agent_mark)
    assert pair.gateway.wait_event("session.resume", since=mark)["session"] == session
    assert pair.gateway.wait_event("link.close", since=mark)["msg"].startswith("replaced")
    expect_reset(pair.visitor, 1.0)
    assert round_trip(pair.port, b"resumed") == b"resumed"
    assert not pair.gateway.events_of("tunnel.close") and not pair.gateway.events_of("session.close")


def test_the_port_stays_open_while_the_link_is_cut(pair):
    mark = pair.gateway.mark()
    pair.proxy.cut(serve_again=False)
    pair.gateway.wait_event("link.close", since=mark)
    assert pair.port in listening_ports(pair.gateway.pid)
    began = time.monotonic()
    free_within(pair.port, DEAD, began)
    pair.proxy.mend()
    wait_until(lambda: is_served(pair.port), 20)


def test_both_sides_find_a_frozen_link_dead(pair):
    began, mark = time.monotonic(), pair.agent.mark()
    pair.proxy.freeze()
    free_within(pair.port, DEAD, began)
    expect_reset(pair.visitor, 1.0)
    retry = pair.agent.wait_event("agent.retry", since=mark)
    assert retry["reason"].startswith("dead")
    assert time.monotonic() - began < scaled(DEAD + 0.5)
    pair.proxy.thaw()
    wait_until(lambda: is_served(pair.port), 20)


def test_the_user_gets_the_port_at_once_while_his_link_is_frozen(pair):
    pair.proxy.freeze()
    newer = pair.another_agent()
    assert newer.port_of("echo", timeout=1.5) == pair.port
    assert round_trip(pair.port, b"newer") == b"newer"
    pair.proxy.thaw()
    pair.agent.expect_exit(4)


def test_a_busy_link_is_not_found_dead(lab):
    """Data in one direction alone keeps a link, for the pings go between."""
    gateway, source = lab.gateway(limits={"heartbeat_seconds": 1, "dead_seconds": 2}), lab.source(bytes(1 << 20), 1 << 34)
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("source", source)])
    visitor = lab.visit(agent.port_of("source"))
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert visitor.recv(1 << 20)
    assert not gateway.events_of("link.close") and not agent.events_of("agent.retry")


# The gateway's end

@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_agents_come_back_to_their_ports_after_a_restart(lab, end):
    gateway, echo = lab.gateway(limits=QUICK), lab.echo()
    tokens = {user: gateway.token_for(user) for user in ("alice", "bob")}
    first = lab.agent(gateway, tokens["bob"], [tcp("gone", echo)], instance="gone")  # the first port of the range
    first.port_of("gone")
    first.stop()
    agents = [lab.agent(gateway, tokens[user], [tcp("one", echo), tcp("two", echo)], instance=instance)
              for user, instance in (("alice", "a"), ("alice", "b"), ("bob", "a"))]
    ports = {(agent.name, tunnel): agent.port_of(tunnel) for agent in agents for tunnel in ("one", "two")}
    assert len(set(ports.values())) == 6
    visitor = lab.visit(ports[agents[0].name, "one"])
    echo_all([visitor], b"before")
    marks = {agent.name: agent.mark() for agent in agents}
    getattr(gateway, end)()
    assert how_closed(visitor, 1.0) in (["reset"] if end == "stop" else ["reset", "fin"])  # the kernel ends a killed one's
    gateway.start()
    again = {(agent.name, tunnel): agent.port_of(tunnel, since=marks[agent.name])
             for agent in agents for tunnel in ("one", "two")}
    assert again == ports
    payload = random_payload(100_000)
    for port in ports.values():
        assert round_trip(port, payload) == payload


def test_an_agent_notices_a_frozen_gateway(pair):
    mark, began = pair.agent.mark(), time.monotonic()
    pair.gateway.freeze()
    retry = pair.agent.wait_event("agent.retry", since=mark)
    assert retry["reason"].startswith("dead")
    assert time.monotonic() - began < scaled(DEAD + 0.5)
    pair.gateway.thaw()
    wait_until(lambda: is_served(pair.port), 20)  # in the same session or a new one, as the gateway saw it
    assert how_closed(pair.visitor) == "reset"


# The end that is asked for

def test_both_programs_stop_with_live_streams(lab):
    gateway, echo, source, sink = lab.gateway(), lab.echo(), lab.source(bytes(1 << 20), 1 << 34), lab.sink()
    token = gateway.token_for("alice")
    tunnels = [tcp("echo", echo), tcp("source", source), tcp("sink", sink)]
    agents = [lab.agent(gateway, token, tunnels, instance=instance) for instance in "ab"]
    visitors = []
    for agent in agents:
        for tunnel in ("echo", "source", "sink"):
            visitors += lab.visits(agent.port_of(tunnel), 20)
    echo_all(visitors[:20], b"live")
    assert visitors[100].send(bytes(1 << 20)) > 0

    began = time.monotonic()
    agents[0].stop()
    assert time.monotonic() - began < scaled(1.5)
    assert set(wait_all_closed(visitors[:60])) == {"reset"}
    began = time.monotonic()
    gateway.stop()
    assert time.monotonic() - began < scaled(1.5)
    assert set(wait_all_closed(visitors[60:])) == {"reset"}
    sink.drain()  # a target that does not read does not see an end either
    for target in (echo, source, sink):
        wait_until(lambda target=target: target.stats.open == 0)


def test_a_second_signal_ends_an_agent_at_once(pair):
    pair.gateway.freeze()  # it will not answer the agent's end
    pair.agent.signal(15)
    pair.agent.wait_event("agent.stop")
    assert pair.agent.running
    began = time.monotonic()
    pair.agent.stop()
    assert time.monotonic() - began < scaled(0.5)
    pair.gateway.thaw()
