"""docs/protocol.md from the agent's side of the wire, exchange by exchange, against a real gateway."""
import json
import socket
import ssl
import struct
import time

import pytest

from harness import abort, expect_eof, expect_reset, how_closed, random_payload, recv_all, recv_exact
from harness.linkproxy import LinkProxy
from trunk_peer import (CREDIT, DATA, FIN, FIRST_WINDOW, LARGEST_PAYLOAD, OPEN, OPENED, PING, PONG, RESET,
                        control_frame, frame, hello, scripted, stream_id)

RESET_REASONS = ["aborted", "refused", "unreachable", "dial_timeout", "stalled", "memory", "limit", "no_tunnel",
                 "link_lost", "session_ended", "internal"]


class Exchange:
    """A scripted agent of alice with one tunnel."""

    def __init__(self, lab, scripted, **gateway_options):
        self.lab, self.gateway = lab, lab.gateway(**gateway_options)
        self.token = self.gateway.token_for("alice")
        self.agent = scripted(self.gateway, self.token)
        self.port = self.agent.open_tunnel()

    def visit(self):
        visitor = self.lab.visit(self.port)
        return visitor, self.agent.expect_stream()


@pytest.fixture
def exchange(lab, scripted):
    return Exchange(lab, scripted)


# Hello, welcome, tunnels

def test_welcome_tells_the_gateways_settings(lab, scripted):
    limits = {"heartbeat_seconds": 7, "dead_seconds": 21, "dial_seconds": 3, "stall_seconds": 99}
    gateway = lab.gateway(limits=limits)
    agent = scripted(gateway, gateway.token_for("alice"))
    assert agent.welcome | limits == agent.welcome
    assert set(agent.welcome) == {"type", "version", "features", "software", "session", "user", "resumed", *limits}
    assert (agent.welcome["version"], agent.welcome["features"], agent.welcome["user"]) == (1, [], "alice")
    assert agent.welcome["resumed"] is False and agent.welcome["session"] >= 1


def test_a_newer_agent_is_answered_with_what_both_speak(lab, scripted):
    gateway = lab.gateway()
    agent = scripted(gateway, login=False)
    agent.control(hello(gateway.token_for("alice"), version=2147483647, features=["udp", "x-future"]))
    assert agent.expect_control("welcome")["features"] == ["udp"] and agent.open_tunnel()


def test_tunnels_are_opened_closed_and_refused(exchange):
    agent, gateway = exchange.agent, exchange.gateway
    assert exchange.port in gateway.ports
    assert agent.open_tunnel() == exchange.port  # asked again: the same answer
    other = agent.open_tunnel("other", 4294967295, port=gateway.ports[-1], strict_port=True, description="für später")
    assert other == gateway.ports[-1]
    agent.ask_tunnel("third", 3, port=other, strict_port=True)
    assert "port_in_use" == agent.expect_control("tunnel_refused", tunnel=3)["reason"]
    agent.ask_tunnel("other", 4)
    agent.expect_control("tunnel_refused", tunnel=4, reason="name_in_use")
    agent.control({"type": "tunnel_close", "tunnel": 4294967295})
    agent.expect_control("tunnel_closed", tunnel=4294967295, reason="requested")
    assert agent.open_tunnel("third", 3, port=other, strict_port=True) == other


def test_a_tunnel_that_closes_resets_its_streams_alone(exchange):
    agent = exchange.agent
    visitor, stream = exchange.visit()
    other_port = agent.open_tunnel("other", 2)
    other = exchange.lab.visit(other_port)
    other_stream = agent.expect_stream()
    agent.control({"type": "tunnel_close", "tunnel": 2})
    agent.expect_reset(other_stream, 8)
    agent.expect_control("tunnel_closed", tunnel=2)
    expect_reset(other)
    agent.data(stream, b"still")
    assert recv_exact(visitor, 5) == b"still"


def test_bound_port_that_is_lost(exchange):
    exchange.gateway.add_user("bob")
    exchange.gateway.ctl("user", "bind", "bob", f"tcp/{exchange.port}")
    exchange.agent.expect_control("tunnel_closed", tunnel=1, reason="port_lost")
    exchange.agent.ask_tunnel(port=exchange.port, strict_port=True)
    exchange.agent.expect_control("tunnel_refused", tunnel=1, reason="port_denied")


def test_agent_stops(exchange):
    visitor, _ = exchange.visit()
    exchange.agent.control({"type": "end", "reason": "stop"})
    exchange.agent.expect_close()
    expect_reset(visitor)
    exchange.gateway.wait_event("session.close", user="alice", reason="stop")


def test_agent_complains(exchange):
    """What an agent has against the gateway is for the operator to read, and is not the gateway's own complaint."""
    exchange.agent.control({"type": "end", "reason": "protocol", "message": "odd frame\r\n\x1b[1m"})
    exchange.agent.expect_close()
    line = exchange.gateway.wait_event("session.close", user="alice", reason="complaint")
    assert "odd frame\r\n" in line["msg"]
    assert "\x1b" not in "".join(exchange.gateway.lines)


def test_agent_cannot_choose_the_word(exchange):
    """Whatever reason an agent gives for leaving, log and audit do not say that the gateway banned it."""
    exchange.agent.control({"type": "end", "reason": "banned"})
    exchange.agent.expect_close()
    exchange.gateway.wait_event("session.close", user="alice", reason="stop")


# Bytes on the wire

def conversation(token):
    """What an agent sends for one whole visit, given the ids that a fresh session will have."""
    first = stream_id(0, 1)
    login = control_frame(hello(token))
    tunnel = control_frame({"type": "tunnel_open", "tunnel": 1, "name": "t", "protocol": "tcp", "port": 0,
                            "strict_port": False})
    credit = struct.pack(">I", 5)
    visit = frame(OPENED, first) + frame(DATA, first, b"hello") + frame(CREDIT, first, credit) + frame(FIN, first)
    return login, tunnel, visit


def converse(lab, agent, send, login, tunnel, visit):
    send(login)
    agent.expect_control("welcome")
    send(tunnel)
    visitor = lab.visit(agent.expect_control("tunnel_opened")["port"])
    stream = agent.expect_stream()
    assert stream == stream_id(0, 1)
    send(visit)
    assert recv_all(visitor) == b"hello"
    visitor.shutdown(socket.SHUT_WR)
    agent.expect(FIN, stream)
    agent.expect_alive()


def test_frames_cut_at_every_byte(lab, scripted):
    gateway = lab.gateway()
    agent = scripted(gateway, login=False)
    converse(lab, agent, agent.send_in_bytes, *conversation(gateway.token_for("alice")))


@pytest.mark.parametrize("size", [7, 8, 9, 13])
def test_frames_cut_at_odd_places(lab, scripted, size):
    gateway = lab.gateway()
    agent = scripted(gateway, login=False)

    def send(data):
        for at in range(0, len(data), size):
            agent.send(data[at:at + size])
    converse(lab, agent, send, *conversation(gateway.token_for("alice")))


def test_hello_and_what_follows_in_one_record(lab, scripted):
    gateway = lab.gateway()
    agent = scripted(gateway, login=False)
    login, tunnel, _ = conversation(gateway.token_for("alice"))
    agent.send(login + tunnel + frame(PING, 0, b"in a row"))
    agent.expect_control("welcome")
    agent.expect_control("tunnel_opened", tunnel=1)


def test_many_frames_in_one_record(exchange):
    visits = [exchange.visit() for _ in range(50)]
    record = b"".join(frame(DATA, stream, b"%08x" % stream) + frame(FIN, stream) for _, stream in visits)
    assert len(record) < 16384
    exchange.agent.send(record)
    for visitor, stream in visits:
        assert recv_all(visitor) == b"%08x" % stream


def test_a_frame_of_the_largest_size_across_two_records(exchange):
    visitor, stream = exchange.visit()
    payload = random_payload(LARGEST_PAYLOAD)
    whole = frame(DATA, stream, payload)
    assert len(whole) == 16384
    exchange.agent.send(frame(OPENED, stream) + whole)
    assert recv_exact(visitor, len(payload)) == payload


def test_gateways_frames_fit_a_record_and_carry_the_visitors_address(exchange):
    visitor = exchange.lab.visit(exchange.port)
    opened = exchange.agent.expect(OPEN)
    tunnel, family, port = struct.unpack(">IBH", opened.payload[:7])
    assert (tunnel, family, port) == (1, 4, visitor.getsockname()[1])
    assert opened.payload[7:] == socket.inet_aton("127.0.0.1")
    payload = random_payload(200_000)
    visitor.sendall(payload)
    got = b""
    while len(got) < len(payload):
        piece = exchange.agent.expect(DATA, opened.stream)
        assert piece.flags == 0 and 1 <= len(piece.payload) <= LARGEST_PAYLOAD
        got += piece.payload
    assert got == payload


# Streams

@pytest.mark.parametrize("first", ["visitor", "agent"])
def test_half_close(exchange, first):
    agent = exchange.agent
    visitor, stream = exchange.visit()
    if first == "visitor":
        visitor.sendall(b"question")
        visitor.shutdown(socket.SHUT_WR)
        agent.expect_data(stream, b"question")
        agent.expect(FIN, stream)
        agent.data(stream, b"late answer")
        agent.frame(FIN, stream)
        assert recv_all(visitor) == b"late answer"
    else:
        agent.data(stream, b"greeting")
        agent.frame(FIN, stream)
        assert recv_all(visitor) == b"greeting"
        visitor.sendall(b"and still")
        visitor.shutdown(socket.SHUT_WR)
        agent.expect_data(stream, b"and still")
        agent.expect(FIN, stream)
    exchange.gateway.wait_event("visitor.close", user="alice", reason="closed")
    agent.frame(CREDIT, stream, b"\0\0\0\1")  # for a stream that is over: dropped
    agent.reset(stream)
    agent.expect_alive()


def test_slots_are_used_again_with_rising_generations(exchange):
    latest = {}
    for count in range(300):
        visitor, stream = exchange.visit()
        slot, generation = stream & 0xffff, stream >> 16
        assert generation == latest.get(slot, 0) + 1
        latest[slot] = generation
        if count % 3 == 0:
            exchange.agent.reset(stream)
            expect_reset(visitor)
        elif count % 3 == 1:
            abort(visitor)
            exchange.agent.expect_reset(stream)
        else:
            exchange.agent.frame(FIN, stream)
            visitor.shutdown(socket.SHUT_WR)
            exchange.agent.expect(FIN, stream)
            expect_eof(visitor)
    assert max(latest.values()) > 1


def test_what_crosses_the_gateways_reset(exchange):
    """DATA within the credit, FIN, OPENED and CREDIT may have been on the way; the stream's slot goes on."""
    agent = exchange.agent
    visitor, stream = exchange.visit()
    abort(visitor)
    exchange.gateway.wait_event("visitor.close", reason="visitor_aborted")
    agent.send(frame(OPENED, stream) + frame(DATA, stream, b"late") + frame(CREDIT, stream, b"\0\0\1\0") +
               frame(FIN, stream) + frame(RESET, stream, b"\1"))
    agent.expect_reset(stream, 1)
    agent.expect_alive()
    visitor, stream = exchange.visit()
    agent.data(stream, b"fresh")
    assert recv_exact(visitor, 5) == b"fresh"


def test_what_crosses_the_agents_reset(exchange):
    agent = exchange.agent
    visitor, stream = exchange.visit()
    visitor.sendall(random_payload(100_000))
    agent.expect(DATA, stream)
    agent.reset(stream, 2)
    expect_reset(visitor)
    closed = exchange.gateway.wait_event("visitor.close", user="alice")
    assert closed["reason"] == "refused"
    agent.expect_alive()
    agent.reset(stream, 2)
    agent.expect_alive()


def test_reset_reasons(exchange):
    for number in (*range(1, 12), 0, 12, 255):
        mark = exchange.gateway.mark()
        visitor, stream = exchange.visit()
        exchange.agent.reset(stream, number)
        expect_reset(visitor)
        word = RESET_REASONS[number - 1] if 2 <= number <= 11 else "target_aborted"
        assert exchange.gateway.wait_event("visitor.close", since=mark)["reason"] == word


def test_credit_is_obeyed(exchange):
    """The gateway sends what was granted and not a byte more; its visitor's bytes wait."""
    agent = exchange.agent
    visitor, stream = exchange.visit()
    payload = random_payload(FIRST_WINDOW + 1000)
    visitor.sendall(payload)
    got = b""
    while len(got) < FIRST_WINDOW:
        got += agent.expect(DATA, stream).payload
    assert got == payload[:FIRST_WINDOW]
    agent.expect_alive()  # nothing more came before the answer
    for amount in (1, 998):
        agent.grant(stream, amount)
        piece = agent.expect(DATA, stream).payload
        assert len(piece) == amount
        got += piece
    agent.grant(stream, 500)
    got += agent.expect(DATA, stream).payload
    assert got == payload


def test_credit_up_to_the_largest_window(exchange):
    visitor, stream = exchange.visit()
    exchange.agent.grant(stream, (1 << 24) - FIRST_WINDOW)
    exchange.agent.expect_alive()


def test_the_gateway_gives_credit_as_the_visitor_reads(exchange):
    agent = exchange.agent
    visitor, stream = exchange.visit()
    payload = random_payload(FIRST_WINDOW)
    agent.data(stream, payload)
    assert recv_exact(visitor, len(payload)) == payload
    visitor.sendall(b"done")
    agent.expect_data(stream, b"done")
    assert agent.credit[stream] >= FIRST_WINDOW // 2
    agent.data(stream, payload[:agent.credit[stream]])
    assert recv_exact(visitor, min(len(payload), agent.credit[stream])) == payload[:agent.credit[stream]]


# Liveness

def test_only_the_latest_ping_is_answered_and_with_its_bytes(exchange):
    agent = exchange.agent
    agent.send(b"".join(frame(PING, 0, b"number%02d" % n) for n in range(40)))
    assert agent.receive_pong() == b"number39"


def test_gateway_pings_at_once_and_every_heartbeat(lab, scripted):
    gateway = lab.gateway(limits={"heartbeat_seconds": 1, "dead_seconds": 3})
    agent = scripted(gateway, gateway.token_for("alice"))
    while len(agent.pings) < 5:  # longer than dead_seconds: the answers keep the link
        got = agent.receive()
        assert got.kind == PING and len(got.payload) == 8
        agent.pings.append(got.payload)
        agent.frame(PONG, 0, got.payload)
    assert len(set(agent.pings)) == 5
    assert not gateway.events_of("link.close")


def test_a_silent_agent_is_dead_in_time(lab, scripted):
    gateway = lab.gateway(limits={"heartbeat_seconds": 1, "dead_seconds": 2})
    agent = scripted(gateway, gateway.token_for("alice"))
    port = agent.open_tunnel()
    visitor = lab.visit(port)
    gateway.wait_event("link.close", user="alice", msg="dead: nothing heard for 2 s", timeout=4)
    closed = gateway.wait_event("session.close", user="alice", timeout=2)
    assert closed["reason"].startswith("dead") and 0.9 < closed["seconds"] < 3.2
    expect_reset(visitor)


# Ends of a link

@pytest.mark.parametrize("how", ["close_notify", "fin", "reset"])
def test_a_lost_link_waits_for_its_run(lab, scripted, how):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    agent = scripted(gateway, token)
    port = agent.open_tunnel()
    visitor = lab.visit(port)
    agent.expect_stream()
    if how == "close_notify":
        agent.sock.unwrap()
    elif how == "fin":
        agent.sock.shutdown(socket.SHUT_RDWR)
    else:
        abort(agent.sock)
    said = {"close_notify": "closed by the peer", "fin": "connection ended", "reset": "connection reset"}[how]
    gateway.wait_event("link.close", user="alice", msg=f"lost: {said}")
    expect_reset(visitor)
    waiting = lab.visit(port)  # in the kernel's queue
    again = scripted(gateway, token, run=agent.run, previous="lost")
    assert again.welcome["resumed"] is True and again.welcome["session"] == agent.welcome["session"]
    stream = again.expect_stream()
    assert stream == stream_id(0, 1)
    assert again.open_tunnel() == port
    again.data(stream, b"served")
    assert recv_exact(waiting, 6) == b"served"


# Hellos with a bad credential

def refused(gateway, scripted, message):
    agent = scripted(gateway, login=False)
    agent.control(message)
    got = json.loads(agent.next().payload)
    agent.expect_close()
    assert got["type"] == "end"
    return got


def test_unknown_tokens(lab, scripted):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    wrong_secret = token[:-1] + ("A" if token[-1] != "A" else "B")
    wrong_id = "pst_000000000000" + token[16:]
    for bad in (wrong_secret, wrong_id, token + "x", token[:-1], token.upper(), " " + token, "x", "", "x" * 4096,
                "pst_"):
        gateway.secrets += [bad] if len(bad) > 8 else []
        end = refused(gateway, scripted, hello(bad))
        assert end["reason"] == "unknown_token" and "until" not in end
    gateway.wait_event("auth.fail", reason="unknown_token", count=10)
    assert not gateway.events_of("session.open")


def test_over_long_token_is_malformed(lab, scripted):
    gateway = lab.gateway()
    end = refused(gateway, scripted, hello("x" * 4097))
    assert end["reason"] == "protocol" and '"token"' in end["message"]
    gateway.wait_event("auth.fail", reason="malformed")


def test_version_zero(lab, scripted):
    gateway = lab.gateway()
    end = refused(gateway, scripted, hello(gateway.token_for("alice"), version=0))
    assert end["reason"] == "version" and "1" in end["message"]
    gateway.wait_event("auth.fail", reason="malformed")


def test_bad_instances(lab, scripted):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    instances = ("", "Laptop", "-a", "a b", "ä", "a/b", "a\nb", "x" * 65, None, 7)
    for instance in instances:
        end = refused(gateway, scripted, hello(token, instance=instance))
        assert end["reason"] == "protocol" and 'hello: "instance"' in end["message"], instance
    gateway.wait_event("auth.fail", reason="malformed", count=len(instances))
    assert scripted(gateway, token, instance="x" * 64)


def test_revoked_expired_banned_removed(lab, scripted):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    revoked = gateway.create_token("alice")
    gateway.ctl("token", "revoke", revoked.split("_")[1])
    assert refused(gateway, scripted, hello(revoked))["reason"] == "revoked"
    expired = gateway.create_token("alice", expires="3s")
    scripted(gateway, expired).expect_end("expired")
    assert refused(gateway, scripted, hello(expired))["reason"] == "expired"
    gateway.ctl("user", "ban", "alice", "--for", "1h")
    end = refused(gateway, scripted, hello(token))
    assert end["reason"] == "banned" and 0 < end["until"] - time.time() <= 3600
    gateway.ctl("user", "ban", "alice")
    end = refused(gateway, scripted, hello(token))
    assert end["reason"] == "banned" and "until" not in end
    gateway.ctl("user", "remove", "alice")
    assert refused(gateway, scripted, hello(token))["reason"] == "unknown_token"
    for reason, count in (("revoked", 1), ("expired", 1), ("banned", 2), ("unknown_token", 1)):
        gateway.wait_event("auth.fail", reason=reason, count=count, peer=lambda text: text.startswith("127.0.0.1:"))


def test_failures_add_up_in_the_audit(lab, scripted):
    gateway = lab.gateway()
    revoked = gateway.token_for("alice")
    gateway.ctl("token", "revoke", revoked.split("_")[1])
    for _ in range(5):
        refused(gateway, scripted, hello("nonsense"))
    for _ in range(3):
        refused(gateway, scripted, hello(revoked))
    gateway.stop()

    def counts(reason):
        return [row["count"] for row in gateway.ctl("audit", json=True)
                if row["action"] == "auth.fail" and row["detail"] == reason and row["actor"] == "127.0.0.1"]
    assert counts("unknown_token") == [1, 4] and counts("revoked") == [1, 2]


# Replay

class Recorder(LinkProxy):
    """Keeps what the agent sent."""

    def __init__(self, port):
        self.sent = bytearray()
        super().__init__(port)

    def on_data(self, connection, data):
        if connection.peer and connection.sock.getsockname()[1] == self.port:
            self.sent += data
        super().on_data(connection, data)


def test_a_recorded_login_does_nothing(lab, scripted):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    recorder = lab._target(Recorder(gateway.port))

    class Through:
        port, certs = recorder.port, gateway.certs
    agent = scripted(Through, token)
    agent.open_tunnel()
    agent.control({"type": "end", "reason": "stop"})
    agent.expect_close()
    gateway.wait_event("session.close", reason="stop")
    recorded = bytes(recorder.sent)
    assert len(recorded) > 500 and token.encode() not in recorded
    mark = gateway.mark()
    replayer = lab.visit(gateway.port)
    replayer.sendall(recorded)
    assert how_closed(replayer) in ("fin", "reset")
    gateway.wait_event("auth.fail", since=mark, reason="handshake")
    assert not gateway.events_of("session.open", since=mark)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_tls_session_still_needs_a_token(lab, scripted, version):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    context = gateway.certs.client_context()
    context.minimum_version = context.maximum_version = version
    first = scripted(gateway, token, context=context)
    first.expect_alive()
    ticket = first.sock.session
    first.control({"type": "end", "reason": "stop"})
    first.expect_close()
    for message, reason in ((hello("x"), "unknown_token"), (hello("x", token=None), "protocol")):
        again = scripted(gateway, login=False, context=context, session=ticket)
        assert again.sock.session_reused
        again.control(message)
        again.expect_end(reason)
    gateway.wait_event("auth.fail", count=2)  # what came before is in the log by then
    assert len(gateway.events_of("session.open")) == 1
