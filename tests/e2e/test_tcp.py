"""Bytes of TCP tunnels: whole both ways, half-close in each direction alone, crowds, several users at once."""
import socket
import threading

import pytest

from harness import Target, connect, echo_all, random_payload, recv_all, recv_exact, round_trip, scaled, tcp

MIB = 1 << 20


@pytest.fixture
def ends(lab):
    """Opens a visitor through a tunnel; returns its socket and the target's end of it."""
    gateway = lab.gateway()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(scaled(10))
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("raw", listener.getsockname()[1])])
    port = agent.port_of("raw")
    opened = [listener]

    def open_one():
        visitor = lab.visit(port)
        target, _ = listener.accept()
        target.settimeout(scaled(10))
        opened.append(target)
        return visitor, target
    open_one.gateway = gateway
    yield open_one
    for sock in opened:
        sock.close()


def send_in_background(sock, payload):
    """Sends the payload and a FIN on a thread of its own; returns the thread."""
    def send():
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


class FullDuplex(Target):
    """Sends a payload and a FIN of its own from the start, while it keeps what it gets."""

    def __init__(self, payload):
        self._payload, self.received = payload, bytearray()
        super().__init__()

    def on_accept(self, connection):
        connection.out += self._payload
        connection.finishing = True

    def on_data(self, connection, data):
        self.received += data

    def may_read(self, connection):
        return True


# Whole

def test_48_mib_there_and_back_with_half_close(lab):
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo)])
    payload = random_payload(48 * MIB)
    assert round_trip(agent.port_of("echo"), payload) == payload
    closed = gateway.wait_event("visitor.close", reason="closed")
    assert (closed["bytes_in"], closed["bytes_out"]) == (len(payload), len(payload))


def test_48_mib_both_ways_at_once(lab):
    gateway = lab.gateway()
    there, back = random_payload(48 * MIB, seed=2), random_payload(48 * MIB, seed=3)
    target = lab.add_target(FullDuplex(back))
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("both", target)])
    assert round_trip(agent.port_of("both"), there) == back
    gateway.wait_event("visitor.close", reason="closed", bytes_in=len(there), bytes_out=len(back))
    assert target.received == there


# Half-close

def test_the_visitor_ends_first_and_the_target_goes_on(ends):
    visitor, target = ends()
    visitor.sendall(b"a question")
    visitor.shutdown(socket.SHUT_WR)
    assert recv_all(target) == b"a question"
    answer = random_payload(5 * MIB)
    sender = send_in_background(target, answer)
    assert recv_all(visitor) == answer
    sender.join()
    ends.gateway.wait_event("visitor.close", reason="closed", bytes_in=10, bytes_out=len(answer))


def test_the_target_ends_first_and_the_visitor_goes_on(ends):
    visitor, target = ends()
    target.sendall(b"hello")
    target.shutdown(socket.SHUT_WR)
    assert recv_all(visitor) == b"hello"
    question = random_payload(5 * MIB)
    sender = send_in_background(visitor, question)
    assert recv_all(target) == question
    sender.join()
    ends.gateway.wait_event("visitor.close", reason="closed", bytes_in=len(question), bytes_out=5)


@pytest.mark.parametrize("first", ["visitor", "target"])
def test_an_end_without_a_byte_passes_alone(ends, first):
    visitor, target = ends()
    one, other = (visitor, target) if first == "visitor" else (target, visitor)
    one.shutdown(socket.SHUT_WR)
    assert recv_all(other) == b""
    other.sendall(b"still here")
    assert recv_exact(one, 10) == b"still here"
    other.shutdown(socket.SHUT_WR)
    assert recv_all(one) == b""


def test_a_silent_visitor_hears_a_target_that_speaks_first(lab):
    gateway, greeting = lab.gateway(), b"220 ready\r\n"
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("smtp", lab.source(greeting, then_fin=False))])
    visitor = lab.visit(agent.port_of("smtp"))
    assert recv_exact(visitor, len(greeting)) == greeting


# Many

def test_a_thousand_visitors_at_once(lab):
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo)])
    visitors = lab.visits(agent.port_of("echo"), 1000)
    echo_all(visitors, b"who is there?", timeout=60)
    assert echo.stats.open == 1000
    assert gateway.sessions()[0]["visitors"] == 1000
    payload = random_payload(20_000)
    echo_all(visitors, payload, timeout=60)


@pytest.mark.tsan
def test_two_users_and_three_agents_at_once_on_two_workers(lab):
    gateway = lab.gateway(workers=2)
    alice, bob = gateway.token_for("alice"), gateway.token_for("bob")
    echoes = [lab.echo() for _ in range(3)]
    agents = [lab.agent(gateway, alice, [tcp("one", echoes[0])], instance="home"),
              lab.agent(gateway, alice, [tcp("one", echoes[1]), tcp("two", echoes[1])], instance="office"),
              lab.agent(gateway, bob, [tcp("one", echoes[2])])]
    ports = [agents[0].port_of("one"), agents[1].port_of("one"), agents[1].port_of("two"), agents[2].port_of("one")]
    assert len(set(ports)) == 4
    payload = random_payload(2 * MIB)
    wrong = []

    def transfer(port):
        for _ in range(3):
            with connect(port, timeout=30) as sock:
                if round_trip(sock, payload) != payload:
                    wrong.append(port)
    transfers = [threading.Thread(target=transfer, args=(port,)) for port in ports]
    for thread in transfers:
        thread.start()
    crowd = [sock for port in ports for sock in lab.visits(port, 20)]
    for _ in range(3):
        echo_all(crowd, payload[:30_000])
    for thread in transfers:
        thread.join()
    assert not wrong
    # Every byte reached the target of the tunnel that it was sent to, and no other.
    per_port = 3 * len(payload) + 3 * 20 * 30_000
    assert [echo.stats.bytes_in for echo in echoes] == [per_port, 2 * per_port, per_port]
    assert {(s["user"], s["instance"], s["bytes_in"]) for s in gateway.sessions()} == {
        ("alice", "home", per_port), ("alice", "office", 2 * per_port), ("bob", "default", per_port)}
