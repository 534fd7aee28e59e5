"""UDP tunnels: whole datagrams there and back, visitors apart from each other, what is agreed and what is refused."""
import socket

import pytest

from fakegateway import FakeGateway, frame
from harness import (LARGEST, UdpEcho, ask, port_is_free, random_payload, round_trip, scaled, silent, tcp, udp,
                     udp_visitor, wait_until)
from trunk_peer import ScriptedAgent, hello, scripted  # noqa: F401

FLOW, FLOW_END, DATAGRAM = 11, 12, 10
WHOLE = 3


@pytest.mark.tsan
@pytest.mark.parametrize("size", [0, 1, 200, 1472, 16376, 16377, 40000, LARGEST])
def test_a_datagram_there_and_back(lab, size):
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", lab.udp_echo())])
    visitor = lab.udp_visit(agent.port_of("echo"))
    payload = random_payload(size)
    assert ask(visitor, payload) == payload


def test_events_and_counts(lab):
    gateway = lab.gateway()
    echo = lab.udp_echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", echo, idle_seconds=1)], log_level="debug")
    opened = agent.wait_event("tunnel.open", tunnel="echo", protocol="udp", target=echo.address)
    port = opened["port"]
    assert opened["msg"] == f"echo: 127.0.0.1:{port} -> {echo.address}"
    gateway.wait_event("tunnel.open", tunnel="echo", protocol="udp", port=port)
    visitor = lab.udp_visit(port)
    assert ask(visitor, b"x" * 100) == b"x" * 100
    peer = "127.0.0.1:%d" % visitor.getsockname()[1]
    session = gateway.sessions()[0]
    assert (session["flows"], session["visitors"], session["datagrams_dropped"]) == (1, 0, 0)
    assert gateway.ctl("status", json=True)["flows"] == 1
    gateway.wait_event("visitor.open", user="alice", tunnel="echo", peer=peer, port=port)
    closed = gateway.wait_event("visitor.close", user="alice", tunnel="echo", peer=peer, port=port, reason="idle")
    assert closed["bytes_in"] == closed["bytes_out"] == 100 and 1 <= closed["seconds"] < scaled(4)
    agent.wait_event("visitor.open", tunnel="echo", peer=peer, level="debug")
    agent.wait_event("visitor.close", tunnel="echo", peer=peer, level="debug", reason="idle", bytes_in=100,
                     bytes_out=100)
    session = gateway.sessions()[0]
    assert (session["flows"], session["bytes_in"], session["bytes_out"]) == (0, 100, 100)


def test_one_line(lab, gateway):
    echo = lab.udp_echo()
    agent = lab.agent(gateway, gateway.token_for("alice"),
                      arguments=["udp", str(echo.port), "--port", str(gateway.ports[4]), "--strict-port"])
    assert agent.port_of(f"udp-{echo.port}") == gateway.ports[4]
    assert ask(lab.udp_visit(gateway.ports[4]), b"hello") == b"hello"


@pytest.mark.tsan
def test_a_thousand_visitors_apart_from_each_other(lab):
    gateway = lab.gateway()
    echo = lab.udp_echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", echo)])
    port = agent.port_of("echo")
    visitors = [lab.udp_visit(port) for _ in range(1000)]
    for round_number in range(2):
        for at, visitor in enumerate(visitors):
            visitor.send(b"%d of %d" % (at, round_number))
            if at % 50 == 49:  # no faster than the machine
                assert ask(visitor, b"%d of %d" % (at, round_number))
        for at, visitor in enumerate(visitors):
            text = b"%d of %d" % (at, round_number)
            answer = visitor.recv(100) if not silent(visitor, 2) else ask(visitor, text)
            assert answer == text
            visitor.setblocking(False)
            try:
                while True:
                    assert visitor.recv(100) == text
            except BlockingIOError:
                visitor.setblocking(True)
    assert len(echo.peers) == 1000, "the target sees each visitor apart"
    assert gateway.sessions()[0]["flows"] == 1000


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_ip6_visitors_and_targets(lab, target):
    gateway = lab.gateway(tunnels={"address": ["127.0.0.1", "::1"]})
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", lab.udp_echo(address=target))])
    port = agent.port_of("echo")
    for address in ("::1", "127.0.0.1"):
        visitor = lab.udp_visit(port, address=address)
        for payload in (b"", b"hello", random_payload(LARGEST)):
            assert ask(visitor, payload) == payload
    gateway.wait_event("visitor.open", peer=lambda p: p.startswith("[::1]:"))


def test_answers_come_from_the_address_that_was_asked(lab):
    """The visitor's socket is connected: it takes nothing from another address of the gateway's."""
    gateway = lab.gateway(tunnels={"address": "0.0.0.0"})
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", lab.udp_echo())])
    port = agent.port_of("echo")
    for address in ("127.0.0.1", "127.0.0.2", "127.7.8.9"):
        assert ask(lab.udp_visit(port, address=address), address.encode()) == address.encode()


def test_a_target_by_name(lab):
    """Where a name has several addresses, one that does not answer is passed over."""
    gateway = lab.gateway()
    echo = lab.udp_echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", f"localhost:{echo.port}")])
    assert ask(lab.udp_visit(agent.port_of("echo")), b"by name") == b"by name"


def test_a_name_that_nobody_knows(lab):
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("lost", "nowhere.invalid:53"),
                                                              udp("echo", lab.udp_echo())])
    lab.udp_visit(agent.port_of("lost")).send(b"hello?")
    gateway.wait_event("visitor.close", tunnel="lost", reason="unreachable")
    assert ask(lab.udp_visit(agent.port_of("echo")), b"hello") == b"hello"


def test_a_target_that_is_not_there_yet(lab):
    gateway = lab.gateway()
    first = UdpEcho()
    address, port = first.address, first.port
    first.close()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", address)])
    visitor = lab.udp_visit(agent.port_of("echo"))
    visitor.send(b"anybody there?")
    gateway.wait_event("visitor.open", tunnel="echo")
    assert silent(visitor, 0.3)
    lab.add_target(UdpEcho(port=port))
    assert ask(visitor, b"now?", wanted=b"now?") == b"now?"
    assert len(gateway.events_of("visitor.open")) == 1


def test_one_number_for_tcp_and_udp(lab):
    """As name servers have it: the kinds of ports do not know each other."""
    gateway = lab.gateway()
    number = gateway.ports[3]
    agent = lab.agent(gateway, gateway.token_for("alice"),
                      [tcp("t", lab.echo(), port=number, strict_port=True),
                       udp("u", lab.udp_echo(), port=number, strict_port=True)])
    assert agent.port_of("t") == agent.port_of("u") == number
    assert round_trip(number, b"tcp") == b"tcp"
    assert ask(lab.udp_visit(number), b"udp") == b"udp"


def test_a_port_that_another_program_has(lab):
    gateway = lab.gateway()
    first, second = gateway.ports[0], gateway.ports[1]
    other = lab.udp_target(port=first, share=True)
    agent = lab.agent(gateway, gateway.token_for("alice"),
                      [udp("exact", lab.udp_echo(), port=first, strict_port=True),
                       udp("near", lab.udp_echo(), port=first)])
    refused = agent.wait_event("tunnel.refuse", tunnel="exact", reason="port_in_use")
    assert f"udp/{first} is in use by another program" in refused["message"]
    assert agent.port_of("near") == second
    assert other.count == 0


def test_ports_of_users(lab):
    """Bound, kept over a restart, and lost when they are bound to another."""
    gateway = lab.gateway()
    gateway.token_for("bob")
    token, echo = gateway.token_for("alice"), lab.udp_echo()
    outside = gateway.port + 30000 if gateway.port < 30000 else gateway.port - 10000
    gateway.ctl("user", "bind", "alice", f"udp/{gateway.ports[9]}")
    agent = lab.agent(gateway, token, [udp("bound", echo, port=gateway.ports[9]), udp("any", echo)])
    assert agent.port_of("bound") == gateway.ports[9] and outside
    port = agent.port_of("any")
    gateway.stop()
    since = agent.mark()
    gateway.start()
    assert agent.port_of("any", since=since) == port
    since = agent.mark()
    gateway.ctl("user", "bind", "bob", f"tcp/{port}")  # another kind
    gateway.ctl("user", "bind", "bob", f"udp/{port}")
    agent.wait_event("tunnel.close", tunnel="any", reason="port_lost", since=since)
    assert agent.port_of("any", since=since) != port


def test_an_agent_without_the_feature_is_refused(scripted, lab):  # noqa: F811
    gateway = lab.gateway()
    agent = scripted(gateway, gateway.token_for("alice"))
    assert agent.welcome["features"] == []
    agent.ask_tunnel("u", 1, protocol="udp")
    refused = agent.expect_control("tunnel_refused", tunnel=1, reason="unsupported")
    assert "UDP" in refused["message"]
    assert agent.open_tunnel("t", 2)
    gateway.wait_event("tunnel.refuse", tunnel="u", reason="unsupported")


def test_a_gateway_without_the_feature_is_not_asked(lab, certs):
    fake = FakeGateway(certs)
    lab.add_target(fake)
    echo = lab.echo()
    agent = lab.agent(fake, "pst_fake", [udp("u", lab.udp_echo()), tcp("t", echo)])
    link = fake.accept()
    assert "udp" in link.hello["features"]
    assert link.expect_control("tunnel_open")["name"] == "t"
    refused = agent.wait_event("tunnel.refuse", tunnel="u", reason="unsupported")
    assert refused["message"] == "this gateway does not carry UDP"
    # The next gateway behind the name may.
    link.close()
    link = fake.accept(timeout=30, features=["udp"])
    assert {link.expect_control("tunnel_open")["name"] for _ in range(2)} == {"t", "u"}


class UdpAgent(ScriptedAgent):
    """Has announced the feature and opened a UDP tunnel."""

    @classmethod
    def open(cls, gateway, token, **options):
        agent = cls(gateway)
        agent.control(hello(token, features=["udp"]))
        assert agent.expect_control("welcome")["features"] == ["udp"]
        agent.port = agent.open_tunnel("u", 1, protocol="udp", **options)
        return agent

    def expect_flow(self):
        """The id of a visitor's flow and his first datagram."""
        flow = self.expect(FLOW).stream
        return flow, self.expect(DATAGRAM, flow).payload


@pytest.fixture
def udp_agent(lab):
    gateway = lab.gateway()
    agent = UdpAgent.open(gateway, gateway.token_for("alice"), idle_seconds=1)
    agent.gateway = gateway
    yield agent
    agent.close()


def test_a_late_answer_of_the_agent_reaches_nobody(lab, udp_agent):
    first = lab.udp_visit(udp_agent.port)
    first.send(b"first")
    flow, _ = udp_agent.expect_flow()
    udp_agent.gateway.wait_event("visitor.close", reason="idle")
    assert udp_agent.expect(FLOW_END, flow)
    others = [lab.udp_visit(udp_agent.port) for _ in range(64)]  # one of them has the slot
    flows = {}
    for at, other in enumerate(others):
        other.send(b"%d" % at)
        new, text = udp_agent.expect_flow()
        flows[new] = (other, text)
    assert flow not in flows and flow & 0xffff in {new & 0xffff for new in flows}
    udp_agent.frame(DATAGRAM, flow, b"late", flags=WHOLE)
    for new, (_, text) in flows.items():
        udp_agent.frame(DATAGRAM, new, text, flags=WHOLE)
    for other, text in flows.values():
        assert other.recv(100) == text
    assert silent(first, 0.2) and all(silent(other, 0) for other in others)


def test_the_gateway_says_nothing_by_itself(lab, udp_agent):
    """Whatever comes, of whatever form: what no agent sent is not sent."""
    visitors = [lab.udp_visit(udp_agent.port) for _ in range(20)]
    for at, visitor in enumerate(visitors):
        visitor.send(bytes(at * 1000))
    wait_until(lambda: udp_agent.gateway.sessions()[0]["flows"] == 20, what="all are there")
    udp_agent.gateway.wait_event("visitor.close", reason="idle")
    assert all(silent(visitor, 0) for visitor in visitors)
    assert udp_agent.gateway.sessions()[0]["bytes_out"] == 0


@pytest.mark.parametrize("frames, says", [
    (lambda flow: frame(DATAGRAM, flow, b"x", flags=2), "out of turn"),
    (lambda flow: frame(DATAGRAM, flow + 1, b"x", flags=3), "which the agent did not get"),
    (lambda flow: frame(FLOW_END, flow + 1, b"x"), "which the agent did not get"),
    (lambda flow: frame(FLOW, flow + 1, bytes(7)), "type 11, which the agent may not send"),
    (lambda flow: frame(DATAGRAM, flow, bytes(16376), flags=1) + frame(DATAGRAM, flow, bytes(16376)) * 4,
     "a datagram of more than 65507 bytes"),
], ids=["piece", "stranger", "stranger_end", "opening", "too_long"])
def test_an_agent_that_breaks_the_rules(lab, udp_agent, frames, says):
    lab.udp_visit(udp_agent.port).send(b"hello")
    flow, _ = udp_agent.expect_flow()
    udp_agent.send(frames(flow))
    assert says in udp_agent.expect_end("protocol")["message"]


def test_a_reload_of_the_agent(lab):
    """What is gone from the offer closes with its flows; what stays is not touched."""
    gateway, echo = lab.gateway(), lab.udp_echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("a", echo), udp("b", echo)])
    ports = agent.port_of("a"), agent.port_of("b")
    leaving, staying = (lab.udp_visit(port) for port in ports)
    assert ask(leaving) == ask(staying)
    agent.reload(tunnels=[udp("b", echo)])
    gateway.wait_event("visitor.close", tunnel="a", reason="no_tunnel")
    wait_until(lambda: udp_port_is_free(ports[0]), what="the port is free")
    peers = set(echo.peers)
    assert ask(staying, b"still here", wanted=b"still here")
    assert set(echo.peers) == peers, "the flow that stayed is the same"


def udp_port_is_free(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_ports_close_with_the_session(lab):
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [udp("echo", lab.udp_echo())])
    port = agent.port_of("echo")
    visitor = udp_visitor(port)
    assert ask(visitor)
    assert not udp_port_is_free(port) and port_is_free(port)
    agent.stop()
    wait_until(lambda: udp_port_is_free(port), what="the port is free")
    gateway.wait_event("visitor.close", tunnel="echo", reason="session_ended")
    visitor.close()
