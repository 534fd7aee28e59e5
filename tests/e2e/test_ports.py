"""Who gets which port: claims, bound ports, strictness, ranges, and the limits of tunnels and connections."""
import socket

import pytest

from harness import (echo_all, how_closed, how_visit_ends, port_is_free, recv_exact, round_trip, tcp, wait_all_closed,
                     wait_until)


@pytest.fixture
def narrow(lab):
    """A gateway that gives ten ports; `outside` are ports that are the test's but not the gateway's to give."""
    gateway = lab.gateway(start=False)
    gateway.inside, gateway.outside = gateway.ports[:10], gateway.ports[10:]
    gateway.write_config(tunnels={"ports": f"{gateway.inside[0]}-{gateway.inside[-1]}"})
    return gateway.start()


@pytest.fixture
def echo(lab):
    return lab.echo()


def refusal(agent, tunnel, reason, since=None):
    """Waits until the gateway has refused the tunnel to the agent; returns both events of it."""
    ours = agent.wait_event("tunnel.refuse", since=since, tunnel=tunnel, reason=reason)
    return ours, agent.gateway.wait_event("tunnel.refuse", tunnel=tunnel, reason=reason)


def occupy(port, address="127.0.0.1"):
    """Another program's listener."""
    return socket.create_server((address, port))


# Claims

@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_any_port_is_the_same_one_after_a_restart(lab, echo, end):
    gateway = lab.gateway()
    tunnels = [tcp(name, echo) for name in "abcde"]
    alice = lab.agent(gateway, gateway.token_for("alice"), tunnels)
    ports = {name: alice.port_of(name) for name in "abcde"}
    alice.stop()
    getattr(gateway, end)()
    gateway.start()
    # Others who come first, with tunnels of the same names, get other ports.
    bob = lab.agent(gateway, gateway.token_for("bob"), tunnels)
    assert not {bob.port_of(name) for name in "abcde"} & set(ports.values())
    alice.write_config(tunnels=[tunnels[i] for i in (3, 0, 4, 2, 1)])
    alice.start()
    assert {name: alice.port_of(name) for name in "abcde"} == ports


def test_agents_that_outlive_a_restart_have_their_ports_again(lab, echo):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    agents = [lab.agent(gateway, token, [tcp("a", echo), tcp("b", echo)], instance=f"box{i}") for i in range(3)]
    ports = [[agent.port_of("a"), agent.port_of("b")] for agent in agents]
    marks = [agent.mark() for agent in agents]
    gateway.kill9()
    gateway.start()
    assert [[agent.port_of("a", since=since), agent.port_of("b", since=since)]
            for agent, since in zip(agents, marks)] == ports
    assert round_trip(ports[2][1], b"served") == b"served"


def test_a_claimed_port_that_is_taken_meanwhile(lab, echo):
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", echo)])
    port = agent.port_of("a")
    agent.stop()
    wait_until(lambda: port_is_free(port))
    with occupy(port):
        agent.start()
        other = agent.port_of("a")
        assert other != port and other in gateway.ports
    since = agent.mark()
    gateway.restart()
    assert agent.port_of("a", since=since) == other  # of the two the one it had last


# A port by its number

def test_a_wanted_port_or_the_next_free_one_above(lab, narrow, echo):
    first, last = narrow.inside[0], narrow.inside[-1]
    wanted = narrow.inside[3]
    with occupy(wanted + 1):
        agent = lab.agent(narrow, narrow.token_for("alice"), [tcp(name, echo, port=wanted) for name in "abc"])
        assert [agent.port_of(name) for name in "abc"] == [wanted, wanted + 2, wanted + 3]
    with occupy(last):
        other = lab.agent(narrow, narrow.token_for("bob"), [tcp("wraps", echo, port=last),
                                                            tcp("outside", echo, port=narrow.outside[0])])
        assert other.port_of("wraps") == first
        assert other.port_of("outside") == first + 1


def test_a_strict_port_is_that_one_or_an_error(lab, narrow, echo):
    used, outside, good = narrow.inside[0], narrow.outside[0], narrow.inside[5]
    with occupy(used):
        agent = lab.agent(narrow, narrow.token_for("alice"), [
            tcp("used", echo, port=used, strict_port=True), tcp("outside", echo, port=outside, strict_port=True),
            tcp("gateways", echo, port=narrow.port, strict_port=True), tcp("good", echo, port=good, strict_port=True),
            tcp("again", echo, port=good, strict_port=True)])
        assert agent.port_of("good") == good
        ours, theirs = refusal(agent, "used", "port_in_use")
        assert f"tcp/{used} is in use by another program" in ours["msg"] and theirs["user"] == "alice"
        assert "outside the gateway's port range" in refusal(agent, "outside", "port_denied")[0]["msg"]
        refusal(agent, "gateways", "port_denied")
        refusal(agent, "again", "port_in_use")
    assert agent.port_of("used") == used  # asked for again while the others work
    assert not agent.events_of("tunnel.open", tunnel=lambda name: name in ("outside", "gateways", "again"))


def test_a_port_is_free_only_when_it_is_on_every_address(lab, echo):
    gateway = lab.gateway(tunnels={"address": ["127.0.0.1", "127.0.0.2"]})
    wanted = gateway.ports[0]
    with occupy(wanted, "127.0.0.2"):
        agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", echo, port=wanted)])
        port = agent.port_of("a")
        assert port == wanted + 1 and port_is_free(wanted)
    for address in ("127.0.0.1", "127.0.0.2"):
        assert round_trip(lab.visit(port, address=address), b"served") == b"served"


# Bound ports

def test_a_bound_port_is_its_users_alone(lab, narrow, echo):
    inside, outside = narrow.inside[0], narrow.outside[0]
    alices, bobs = narrow.token_for("alice"), narrow.token_for("bob")
    narrow.ctl("user", "bind", "alice", f"tcp/{inside}", f"tcp/{outside}")
    bob = lab.agent(narrow, bobs, [tcp("wants", echo, port=inside), tcp("any", echo),
                                   tcp("strict", echo, port=inside, strict_port=True),
                                   tcp("out", echo, port=outside, strict_port=True)])
    assert bob.port_of("wants") == inside + 1 and bob.port_of("any") == inside + 2
    for name in ("strict", "out"):
        assert "bound to another user" in refusal(bob, name, "port_denied")[0]["msg"]
    alice = lab.agent(narrow, alices, [tcp("in", echo, port=inside), tcp("out", echo, port=outside)])
    assert (alice.port_of("in"), alice.port_of("out")) == (inside, outside)
    assert round_trip(outside, b"served") == b"served"


@pytest.mark.parametrize("holder", ["program", "instance"])
def test_a_bound_port_that_is_held_is_an_error_and_never_moved(lab, narrow, echo, holder):
    port = narrow.inside[0]
    token = narrow.token_for("alice")
    narrow.ctl("user", "bind", "alice", f"tcp/{port}")
    if holder == "program":
        release = occupy(port).close
    else:
        other = lab.agent(narrow, token, [tcp("a", echo, port=port)], instance="other")
        assert other.port_of("a") == port
        release = other.stop
    agent = lab.agent(narrow, token, [tcp("a", echo, port=port)])
    refusal(agent, "a", "port_in_use")
    assert not agent.events_of("tunnel.open")
    release()
    assert agent.port_of("a") == port


def test_the_control_port_is_never_given(lab, narrow, echo):
    narrow.ctl("user", "add", "alice")
    narrow.ctl("user", "bind", "alice", f"tcp/{narrow.port}")
    agent = lab.agent(narrow, narrow.create_token("alice"), [tcp("a", echo, port=narrow.port)])
    assert "a port of the gateway itself" in refusal(agent, "a", "port_in_use")[0]["msg"]


def test_binding_a_port_closes_anothers_tunnel_on_it(lab, narrow, echo):
    port = narrow.inside[0]
    alice = lab.agent(narrow, narrow.token_for("alice"), [tcp("a", echo, port=port), tcp("b", echo)])
    assert alice.port_of("a") == port
    kept = lab.visit(alice.port_of("b"))
    visitors = lab.visits(port, 10)
    echo_all([*visitors, kept], b"hello")
    bobs, since = narrow.token_for("bob"), alice.mark()
    narrow.ctl("user", "bind", "bob", f"tcp/{port}")
    assert set(wait_all_closed(visitors, 1.0)) == {"reset"}
    narrow.wait_event("tunnel.close", user="alice", tunnel="a", port=port)
    alice.wait_event("tunnel.close", since=since, tunnel="a", reason="port_lost")
    bob = lab.agent(narrow, bobs, [tcp("mine", echo, port=port)])
    assert bob.port_of("mine") == port and not bob.events_of("tunnel.refuse")
    assert alice.port_of("a", since=since) not in (port, alice.port_of("b"))
    echo_all([kept], b"undisturbed")


def test_unbinding_a_port_outside_the_range_closes_it(lab, narrow, echo):
    inside, outside = narrow.inside[4], narrow.outside[0]
    token = narrow.token_for("alice")
    narrow.ctl("user", "bind", "alice", f"tcp/{inside}", f"tcp/{outside}")
    agent = lab.agent(narrow, token, [tcp("in", echo, port=inside), tcp("out", echo, port=outside)])
    visitors = {"in": lab.visit(agent.port_of("in")), "out": lab.visit(agent.port_of("out"))}
    echo_all(list(visitors.values()), b"hello")
    since = agent.mark()
    narrow.ctl("user", "unbind", "alice", f"tcp/{outside}", f"tcp/{inside}")
    assert how_closed(visitors["out"], 1.0) == "reset"
    wait_until(lambda: port_is_free(outside), 1.0)
    echo_all([visitors["in"]], b"a port of the range is anybody's")
    assert agent.port_of("out", since=since) == narrow.inside[0]


# Limits

def test_the_users_own_port_ranges(lab, narrow, echo):
    one, two = narrow.inside[4], narrow.inside[6]
    token = narrow.token_for("alice")
    narrow.ctl("user", "limit", "alice", "--ports", f"{one},{two}")
    narrow.ctl("user", "bind", "alice", f"tcp/{narrow.outside[0]}")
    agent = lab.agent(narrow, token, [
        tcp("strict", echo, port=one + 1, strict_port=True), tcp("wants", echo, port=one + 1), tcp("any", echo),
        tcp("none", echo), tcp("bound", echo, port=narrow.outside[0])])
    assert "the user's own port ranges" in refusal(agent, "strict", "port_denied")[0]["msg"]
    refusal(agent, "none", "no_port")
    assert [agent.port_of(name) for name in ("wants", "any", "bound")] == [two, one, narrow.outside[0]]
    # Changed live: what lies outside now is closed, what is bound stays.
    visitors = [lab.visit(port) for port in (two, one, narrow.outside[0])]
    echo_all(visitors, b"hello")
    narrow.ctl("user", "limit", "alice", "--ports", f"{two}-{two + 1}")
    assert how_closed(visitors[1], 1.0) == "reset"
    wait_until(lambda: port_is_free(one), 1.0)
    echo_all([visitors[0], visitors[2]], b"still here")


def test_the_limit_of_tunnels(lab, narrow, echo):
    token = narrow.token_for("alice")
    narrow.ctl("user", "limit", "alice", "--tunnels", "2")
    agent = lab.agent(narrow, token, [tcp(name, echo) for name in "abc"])
    visitors = [lab.visit(agent.port_of(name)) for name in "ab"]
    echo_all(visitors, b"hello")
    refusal(agent, "c", "limit")
    # Raised: what was refused comes by itself. Lowered: the newest go.
    narrow.ctl("user", "limit", "alice", "--tunnels", "default")
    visitors.append(lab.visit(agent.port_of("c")))
    echo_all(visitors, b"hello")
    since = agent.mark()
    narrow.ctl("user", "limit", "alice", "--tunnels", "1")
    assert wait_all_closed(visitors[1:], 1.0) == ["reset", "reset"]
    assert {agent.wait_event("tunnel.close", since=since, reason="limit", count=n)["tunnel"] for n in (1, 2)} == {"b", "c"}
    echo_all(visitors[:1], b"still here")
    assert narrow.sessions()[0]["tunnels"] == 1


def test_the_limit_of_connections(lab, narrow, echo):
    token = narrow.token_for("alice")
    narrow.ctl("user", "limit", "alice", "--connections", "5")
    agent = lab.agent(narrow, token, [tcp("a", echo), tcp("b", echo)])
    a, b = agent.port_of("a"), agent.port_of("b")
    visitors = [*lab.visits(a, 3), *lab.visits(b, 2)]
    echo_all(visitors, b"hello")
    assert [how_visit_ends(port, b"hello") for port in (a, b, a)] == ["reset"] * 3
    narrow.wait_event("visitor.refuse", user="alice", tunnel="a", port=a, reason="limit")
    echo_all(visitors, b"still here")

    visitors.pop().close()
    narrow.wait_event("visitor.close", user="alice", tunnel="b")
    visitors.append(lab.visit(b))
    echo_all(visitors, b"a place that was given back")

    narrow.ctl("user", "limit", "alice", "--connections", "7")
    visitors.append(wait_until(lambda: let_in(lab, a), 1, "the higher limit holds"))
    visitors.append(lab.visit(b))
    echo_all(visitors, b"seven")
    assert how_visit_ends(a, b"hello") == "reset"

    narrow.ctl("user", "limit", "alice", "--connections", "2")
    visitors.pop().close()

    def is_full():
        visitor = let_in(lab, a)
        if visitor:
            visitor.close()
        return not visitor
    wait_until(lambda: narrow.sessions()[0]["visitors"] == 6, 2, "one left")
    wait_until(is_full, 1, "the lower limit holds")
    echo_all(visitors, b"nobody is thrown out")


def let_in(lab, port):
    """One more visitor, who is served; None when it is reset."""
    try:
        visitor = lab.visit(port)
        visitor.sendall(b"?")
        assert recv_exact(visitor, 1) == b"?"
    except ConnectionResetError:
        return None
    return visitor


def test_the_limit_of_connections_spares_other_sessions(lab, narrow, echo):
    """It is per session: neither another instance nor another user has less for it."""
    token = narrow.token_for("alice")
    narrow.ctl("user", "limit", "alice", "--connections", "1")
    agents = [lab.agent(narrow, token, [tcp("a", echo)]), lab.agent(narrow, token, [tcp("a", echo)], instance="two"),
              lab.agent(narrow, narrow.token_for("bob"), [tcp("a", echo)])]
    visitors = [lab.visit(agent.port_of("a")) for agent in agents]
    echo_all(visitors, b"hello")
    assert how_visit_ends(agents[0].port_of("a"), b"hello") == "reset"
    visitors += lab.visits(agents[2].port_of("a"), 10)
    echo_all(visitors, b"still here")
