"""Agents that break the protocol or starve themselves: they lose their session for a reason that is told and logged,
and the next user of the same worker does not notice."""
import contextlib
import re
import struct

import pytest

from harness import (abort, echo_all, fd_count, how_closed, open_many, port_is_free, rss_kib, tcp,
                     wait_all_closed, wait_until)
from trunk_peer import (CONTROL, CREDIT, DATA, DATAGRAM, FIN, FIRST_WINDOW, LARGEST_PAYLOAD, LARGEST_WINDOW, OPEN,
                        OPENED, PING, PONG, RESET, control_frame, frame, hello, scripted, stream_id)

WELCOME = {"type": "welcome", "version": 1, "features": [], "software": "x", "session": 1, "user": "u",
           "resumed": False, "heartbeat_seconds": 15, "dead_seconds": 45, "dial_seconds": 10, "stall_seconds": 600}
TUNNEL_OPEN = {"type": "tunnel_open", "tunnel": 2, "name": "u", "protocol": "tcp", "port": 0, "strict_port": False}


class Town:
    """A gateway with one worker, where bob's visitor is served while mallory misbehaves."""

    def __init__(self, lab, scripted, **gateway_options):
        self.lab, self.scripted = lab, scripted
        self.gateway = lab.gateway(workers=1, **gateway_options)
        self.token = self.gateway.token_for("mallory")
        self.echo = lab.echo()
        self.agent = lab.agent(self.gateway, self.gateway.token_for("bob"), [tcp("echo", self.echo)])
        self.live = lab.visit(self.agent.port_of("echo"))
        self.bob_goes_on()
        self.descriptors = fd_count(self.gateway.pid)

    def mallory(self, **options):
        return self.scripted(self.gateway, self.token, **options)

    def victim(self, **options):
        """Mallory with a tunnel and a visitor on it; (agent, stream, visitor, port)."""
        agent = self.mallory(**options)
        port = agent.open_tunnel()
        visitor = self.lab.visit(port)
        return agent, agent.expect_stream(), visitor, port

    def bob_goes_on(self):
        echo_all([self.live], b"still here", timeout=5)

    def nothing_is_left(self):
        """Bob is served, and every descriptor that mallory cost is back."""
        self.bob_goes_on()
        assert len(self.gateway.sessions()) == 1
        wait_until(lambda: fd_count(self.gateway.pid) <= self.descriptors, 10, "the descriptors are back")


@pytest.fixture
def town(lab, scripted):
    return Town(lab, scripted)


def flood(kind, count, stream=0, payload=b""):
    return frame(kind, stream, payload) * count


def later(stream, generations):
    return stream + (generations << 16)


def controls(message):
    return lambda stream: control_frame(message)


def opening(**changes):
    """A tunnel_open with a change; None leaves the key out."""
    return controls({key: value for key, value in (TUNNEL_OPEN | changes).items() if value is not None})


# What mallory sends when a visitor is there on the stream `s`, and what the gateway says to it.
VIOLATIONS = {"streams that it did not get": {
    "data_for_unknown_stream": (lambda s: frame(DATA, stream_id(40, 1), b"x"), "stream 00010028, which the agent"),
    "data_beyond_all_slots": (lambda s: frame(DATA, stream_id(65535, 1), b"x"), "stream 0001ffff, which the agent did"),
    "data_of_next_generation": (lambda s: frame(DATA, later(s, 1), b"x"), "did not get"),
    "data_of_generation_zero": (lambda s: frame(DATA, stream_id(1, 0), b"x"), "did not get"),
    "data_of_far_generation": (lambda s: frame(DATA, later(s, 0x7fff), b"x"), "did not get"),
    "opened_for_unknown_stream": (lambda s: frame(OPENED, later(s, 1)), "a frame of type 3 .*did not get"),
    "fin_for_unknown_stream": (lambda s: frame(FIN, later(s, 1)), "a frame of type 5 .*did not get"),
    "reset_for_unknown_stream": (lambda s: frame(RESET, later(s, 1), b"\1"), "a frame of type 6 .*did not get"),
    "credit_for_unknown_stream": (lambda s: frame(CREDIT, later(s, 1), b"\0\0\0\1"), "a frame of type 7 .*did not get"),
}, "headers": {
    "type_zero": (lambda s: frame(0), "unknown type"),
    "type_13": (lambda s: frame(13), "unknown type"),
    "type_255": (lambda s: frame(255, s, b"x"), "unknown type"),
    "flags_on_data": (lambda s: frame(DATA, s, b"x", flags=1), "unknown flags"),
    "flags_on_ping": (lambda s: frame(PING, 0, bytes(8), flags=128), "unknown flags"),
    "flag_4_on_datagram": (lambda s: frame(DATAGRAM, s, b"x", flags=4), "unknown flags"),
    "data_without_bytes": (lambda s: frame(DATA, s), "length does not fit"),
    "data_too_long_by_one": (lambda s: frame(DATA, s, length=LARGEST_PAYLOAD + 1), "length does not fit"),
    "data_of_all_ones": (lambda s: frame(DATA, s, length=0xffff), "length does not fit"),
    "control_without_bytes": (lambda s: frame(CONTROL), "length does not fit"),
    "control_of_one_byte": (lambda s: frame(CONTROL, 0, b"{"), "length does not fit"),
    "control_too_long_by_one": (lambda s: frame(CONTROL, length=LARGEST_PAYLOAD + 1), "length does not fit"),
    "opened_with_payload": (lambda s: frame(OPENED, s, b"x"), "length does not fit"),
    "fin_with_payload": (lambda s: frame(FIN, s, b"x"), "length does not fit"),
    "reset_without_reason": (lambda s: frame(RESET, s), "length does not fit"),
    "reset_with_two_reasons": (lambda s: frame(RESET, s, b"\1\1"), "length does not fit"),
    "credit_of_three_bytes": (lambda s: frame(CREDIT, s, b"\0\0\1"), "length does not fit"),
    "credit_of_five_bytes": (lambda s: frame(CREDIT, s, b"\0\0\0\0\1"), "length does not fit"),
    "ping_of_seven_bytes": (lambda s: frame(PING, 0, bytes(7)), "length does not fit"),
    "pong_of_nine_bytes": (lambda s: frame(PONG, 0, bytes(9)), "length does not fit"),
    "data_without_stream": (lambda s: frame(DATA, 0, b"x"), "without a stream id"),
    "ping_with_stream": (lambda s: frame(PING, s, bytes(8)), "with a stream id"),
    "control_with_stream": (lambda s: frame(CONTROL, s, b"{}"), "with a stream id"),
}, "frames of others": {
    "open_sent_by_the_agent": (lambda s: frame(OPEN, stream_id(9, 1), bytes(7)), "type 2, which the agent may not"),
    "datagram_without_the_feature": (lambda s: frame(DATAGRAM, s, b"x", flags=3), "type 10, which the agent may not"),
    "flow_without_the_feature": (lambda s: frame(11, s, bytes(7)), "type 11, which the agent may not"),
    "end_of_a_flow_without_the_feature": (lambda s: frame(12, s, b"\1"), "type 12, which the agent may not"),
    "empty_piece_of_a_datagram": (lambda s: frame(DATAGRAM, s, flags=1), "empty piece"),
    "pong_without_ping": (lambda s: frame(PONG, 0, b"whatever"), "a pong without a ping"),
}, "credit": {
    "credit_of_zero": (lambda s: frame(CREDIT, s, bytes(4)), "a credit of 0"),
    "credit_above_the_window": (lambda s: frame(CREDIT, s, struct.pack(">I", LARGEST_WINDOW - FIRST_WINDOW + 1)),
                                "a credit of 16515073 .*which has 262144"),
    "credit_that_would_wrap": (lambda s: frame(CREDIT, s, b"\xff\xff\xff\xff"), "a credit of 4294967295"),
    "credit_above_the_window_in_sum": (lambda s: frame(CREDIT, s, struct.pack(">I", 1 << 23)) * 2, "which has 8650752"),
}, "order": {
    "data_after_fin": (lambda s: frame(FIN, s) + frame(DATA, s, b"x"), "data after the end"),
    "second_fin": (lambda s: frame(FIN, s) * 2, "a second end"),
    "second_opened": (lambda s: frame(OPENED, s) * 2, "a second opening"),
    "opened_after_data": (lambda s: frame(DATA, s, b"x") + frame(OPENED, s), "a second opening"),
    "data_after_own_reset": (lambda s: frame(RESET, s, b"\1") + frame(DATA, s, b"x"), "data for stream .*is closed"),
    "fin_after_own_reset": (lambda s: frame(RESET, s, b"\1") + frame(FIN, s), "the end of stream .*is closed"),
}, "floods": {
    "flood_of_pings": (lambda s: flood(PING, 80, 0, bytes(8)), "a flood of pings"),
    "flood_of_credit": (lambda s: flood(CREDIT, 60_000, s, b"\0\0\0\1"), "a flood of credit"),
    "flood_of_control": (lambda s: control_frame({"type": "tunnel_close", "tunnel": 9}) * 1500, "a flood of control"),
    "flood_of_late_resets": (lambda s: flood(RESET, 60_000, s, b"\1"), "a flood of frames for closed streams"),
    "flood_of_late_opened": (lambda s: frame(RESET, s, b"\1") + flood(OPENED, 60_000, s), "a flood of frames"),
    "flood_of_late_credit": (lambda s: frame(RESET, s, b"\1") + flood(CREDIT, 60_000, s, b"\0\0\0\1"),
                             "a flood of credit"),
}, "messages": {
    "second_hello": (controls(hello("pst_x")), "a second greeting"),
    "welcome_from_the_agent": (controls(WELCOME), "a second greeting"),
    "tunnel_opened_from_the_agent": (controls({"type": "tunnel_opened", "tunnel": 1, "port": 1}), "only a gateway"),
    "not_json": (lambda s: frame(CONTROL, 0, b"garbage"), "not JSON, at byte"),
    "sixteen_kib_of_garbage": (lambda s: frame(CONTROL, 0, b"\xff" * LARGEST_PAYLOAD), "not JSON, at byte"),
    "json_with_a_tail": (lambda s: frame(CONTROL, 0, b'{"type":"tunnel_close","tunnel":1}x'), "not JSON"),
    "json_in_a_list": (lambda s: frame(CONTROL, 0, b"[1]"), "is a JSON object"),
    "json_too_deep": (lambda s: frame(CONTROL, 0, b"[" * 16_000), "not JSON"),
    "json_with_a_nul": (lambda s: frame(CONTROL, 0, b'{"type":"end","reason":"a\\u0000b"}'), "not JSON"),
    "json_without_utf8": (lambda s: frame(CONTROL, 0, b'{"type":"end","reason":"\xc3("}'), "not JSON"),
    "no_type": (controls({"tunnel": 1}), 'needs a "type"'),
    "type_of_another_kind": (controls({"type": 1}), 'needs a "type"'),
    "unknown_type_of_message": (controls({"type": "tunnel_steal"}), 'unknown type .*"tunnel_steal"'),
    "hostile_type_of_message": (controls({"type": "a\r\n\x1b[31mb"}), r'unknown type .*"a\?\?\?\[31mb"'),
    "unknown_key": (opening(colour="red"), 'tunnel_open: unknown key "colour"'),
    "duplicate_key": (lambda s: frame(CONTROL, 0, b'{"type":"end","reason":"x","reason":"y"}'), 'duplicate.*"reason"'),
    "missing_key": (opening(name=None), 'tunnel_open: "name" is missing'),
    "tunnel_as_text": (opening(tunnel="2"), '"tunnel" must be an integer'),
    "tunnel_zero": (opening(tunnel=0), '"tunnel" must be 1 to 4294967295'),
    "tunnel_above_u32": (opening(tunnel=1 << 32), '"tunnel" must be 1 to 4294967295'),
    "port_below_zero": (opening(port=-1), '"port" must be 0 to 65535'),
    "port_too_high": (opening(port=65536), '"port" must be 0 to 65535'),
    "port_with_a_fraction": (opening(port=80.5), '"port" must be an integer'),
    "number_beyond_64_bits": (lambda s: frame(CONTROL, 0, b'{"type":"tunnel_close","tunnel":99999999999999999999}'),
                              "not JSON"),
    "strict_port_as_number": (opening(strict_port=1), '"strict_port" must be true or false'),
    "unknown_protocol": (opening(protocol="sctp"), '"protocol" must be one of its words'),
    "name_with_capitals": (opening(name="SSH"), '"name" must be 1 to 64 of'),
    "name_too_long": (opening(name="a" * 65), '"name" must be 1 to 64 of'),
    "name_with_line_feed": (opening(name="a\nb"), '"name" must be 1 to 64 of'),
    "description_too_long": (opening(description="d" * 257), '"description" must be a shorter string'),
    "goaway_too_far": (controls({"type": "goaway", "reason": "x", "deadline_seconds": 86401}), "must be 0 to 86400"),
}}


AFTER_FIN = ("data_after_fin", "second_fin")  # the visitor sees the first FIN before the reset


def violate(town, name, attack, why):
    mark = town.gateway.mark()
    agent, stream, visitor, port = town.victim()
    agent.send_until_closed(attack(stream))
    assert re.search(why, agent.expect_end("protocol")["message"])
    line = town.gateway.wait_event("link.close", user="mallory", since=mark)
    assert line["level"] == "warn" and re.match("protocol: .*" + why, line["msg"])
    town.gateway.wait_event("session.close", user="mallory", reason="protocol", since=mark,
                            msg=lambda text: re.search(why, text))
    assert how_closed(visitor) == ("fin" if name in AFTER_FIN else "reset")
    assert port_is_free(port)
    town.bob_goes_on()


@pytest.mark.parametrize("group", VIOLATIONS)
def test_a_violation_ends_the_session_and_says_why(town, group):
    for name, (attack, why) in VIOLATIONS[group].items():
        violate(town, name, attack, why)
    town.nothing_is_left()


def test_bytes_beyond_the_credit(town):
    """The visitor does not read: what the agent may send is bounded, whatever it sends."""
    agent, stream, visitor, _ = town.victim()
    agent.send_until_closed(frame(DATA, stream, bytes(LARGEST_PAYLOAD)), times=4096)
    message = agent.expect_end("protocol")["message"]
    assert re.match(rf"\d+ bytes for stream {stream:08x}, which had credit for \d+$", message)
    town.gateway.wait_event("session.close", user="mallory", reason="protocol")
    town.nothing_is_left()


def test_late_data_up_to_the_credit_and_not_beyond(town):
    agent, stream, visitor, _ = town.victim()
    agent.data(stream, bytes(1000))
    abort(visitor)
    agent.expect_reset(stream, 1)
    agent.data(stream, bytes(FIRST_WINDOW - 1000))  # could have been on the way
    agent.expect_alive()
    agent.send_until_closed(frame(DATA, stream, b"x"))
    assert re.match("data for stream .* is closed", agent.expect_end("protocol")["message"])
    town.nothing_is_left()


def test_late_fin_once_and_no_data_behind_a_fin(town):
    agent, stream, visitor, port = town.victim()
    abort(visitor)
    agent.expect_reset(stream)
    agent.frame(FIN, stream)
    agent.expect_alive()
    second = town.lab.visit(port)
    stream = agent.expect_stream()
    agent.frame(FIN, stream)
    assert second.recv(1) == b""
    abort(second)
    agent.expect_reset(stream)
    agent.send_until_closed(frame(FIN, stream))
    assert re.match("the end of stream .* is closed", agent.expect_end("protocol")["message"])


# Before there is a session

def garbage_hello(**changes):
    return control_frame(hello("pst_x", **changes))


GREETINGS = {
    "garbage": (bytes(range(256)) * 64, "unknown type"),
    "garbage_in_a_frame": (frame(CONTROL, 0, b"\xfe" * LARGEST_PAYLOAD), "not JSON"),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown type"),
    "data_first": (frame(DATA, stream_id(0, 1), b"x"), "the first frame is of type 4"),
    "ping_first": (frame(PING, 0, bytes(8)), "the first frame is of type 8"),
    "open_first": (frame(OPEN, 1, bytes(7)), "the first frame is of type 2"),
    "another_message_first": (control_frame({"type": "tunnel_close", "tunnel": 1}), "not a hello"),
    "unknown_key": (garbage_hello(admin=True), 'hello: unknown key "admin"'),
    "missing_token": (garbage_hello(token=None), 'hello: "token" is missing'),
    "token_as_number": (garbage_hello(token=1), 'hello: "token" must be a string'),
    "run_too_short": (garbage_hello(run="ab"), 'hello: "run" must be 32 hex digits'),
    "previous_unknown": (garbage_hello(previous="stolen"), 'hello: "previous" must be one of'),
    "features_as_text": (garbage_hello(features="udp"), 'hello: "features" must be a list'),
    "duplicate_token": (frame(CONTROL, 0, b'{"type":"hello","token":"a","token":"b"}'), "duplicate"),
}


def greet_badly(town, name, greeting, why):
    mark = town.gateway.mark()
    agent = town.mallory(login=False)
    agent.send_until_closed(greeting)
    assert re.search(why, agent.expect_end("protocol")["message"])
    line = town.gateway.wait_event("auth.fail", reason="malformed", since=mark)
    assert re.search(why, line["msg"]) and line["peer"].startswith("127.0.0.1:")


def test_a_bad_greeting_is_refused_with_its_reason(town):
    for name, (greeting, why) in GREETINGS.items():
        greet_badly(town, name, greeting, why)
    town.nothing_is_left()


def test_a_hello_that_never_ends(lab, scripted):
    town = Town(lab, scripted, limits={"handshake_seconds": 1})
    whole = control_frame(hello(town.token))
    silent, slow, partial = town.mallory(login=False), town.mallory(login=False), town.mallory(login=False)
    partial.send(whole[:-1])
    slow.send(whole[:8])
    for agent in (silent, slow, partial):
        agent.expect_close()
    town.gateway.wait_event("auth.fail", reason="handshake", count=3, msg="no hello in time")
    assert not town.gateway.events_of("session.open", user="mallory")
    town.nothing_is_left()


# Agents that only hurt themselves

def test_an_agent_that_never_answers_and_never_gives_credit(lab, scripted):
    """Its visitors are reset after the dial's time, sooner when they are stuck; no more than a window is taken."""
    town = Town(lab, scripted, limits={"dial_seconds": 1, "stall_seconds": 2})
    agent, stream, visitor, port = town.victim()
    silent = lab.visit(port)
    silent_stream = agent.expect_stream()
    visitor.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(512):
            visitor.send(bytes(1 << 16))
    got = 0
    while got < FIRST_WINDOW:
        got += len(agent.expect(DATA, stream).payload)
    assert got == FIRST_WINDOW
    town.bob_goes_on()
    agent.expect_reset(stream, 5)
    agent.expect_reset(silent_stream, 4)
    closed = town.gateway.wait_event("visitor.close", user="mallory", reason="stalled")
    assert closed["bytes_in"] == FIRST_WINDOW
    town.gateway.wait_event("visitor.close", user="mallory", reason="dial_timeout", seconds=lambda s: 6 <= s < 12)
    assert (how_closed(visitor), how_closed(silent)) == ("reset", "reset")
    agent.expect_alive()
    agent.close()
    town.gateway.wait_event("session.close", user="mallory")
    town.nothing_is_left()


def test_an_agent_that_resets_every_stream(town):
    agent = town.mallory()
    port = agent.open_tunnel()
    for _ in range(20):
        visitors = open_many(port, 10)
        for _ in visitors:
            agent.reset(agent.expect_stream(), 2)
        assert set(wait_all_closed(visitors)) == {"reset"}
        town.bob_goes_on()
    assert town.gateway.wait_event("visitor.close", user="mallory", count=200)["reason"] == "refused"
    agent.expect_alive()


def never_reads(town):
    """Mallory's window is shut and visitors bring data; returns it with its visitors."""
    agent = town.mallory(receive_buffer=4096)
    port = agent.open_tunnel()
    visitors = [town.lab.visit(port) for _ in range(100)]
    for visitor in visitors:
        visitor.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                visitor.send(bytes(1 << 16))
    return agent, visitors


@pytest.mark.parametrize("speaks", [False, True])
def test_an_agent_that_never_reads_is_found_dead(lab, scripted, speaks):
    """PINGs of its own do not help it: those of the gateway are not answered."""
    town = Town(lab, scripted, limits={"heartbeat_seconds": 1, "dead_seconds": 3})
    agent, visitors = never_reads(town)

    def found_dead():
        town.bob_goes_on()
        if speaks:
            agent.send_until_closed(frame(PING, 0, bytes(8)))
        return town.gateway.events_of("link.close", user="mallory")
    line, = wait_until(found_dead, 6, "the link is dead", interval=0.2)
    assert line["msg"].startswith("dead: ")
    town.gateway.wait_event("session.close", user="mallory", reason=lambda text: text.startswith("dead: "))
    assert set(wait_all_closed(visitors)) == {"reset"}
    town.nothing_is_left()


def test_an_agent_that_does_not_read_is_kicked(town):
    """The gateway does not wait for it to read its end."""
    agent, visitors = never_reads(town)
    town.gateway.ctl("session", "kick", "mallory")
    assert set(wait_all_closed(visitors, timeout=1.0)) == {"reset"}
    town.gateway.wait_event("session.close", user="mallory", reason="kicked")
    town.nothing_is_left()


def test_another_users_tunnel_cannot_be_reached(town):
    """Numbers of tunnels and streams are the session's own: those of bob mean nothing in mallory's link."""
    agent, stream, visitor, port = town.victim()
    theirs = town.agent.port_of("echo")
    agent.control({"type": "tunnel_close", "tunnel": 77})
    agent.expect_control("tunnel_closed", tunnel=77, reason="requested")
    agent.ask_tunnel("theirs", 2, port=theirs, strict_port=True)
    agent.expect_control("tunnel_refused", tunnel=2, reason="port_in_use")
    agent.ask_tunnel("echo", 1)  # the number of another tunnel of its own
    agent.expect_control("tunnel_refused", tunnel=1, reason="name_in_use")
    agent.data(stream, b"mine")
    assert visitor.recv(4) == b"mine"
    town.bob_goes_on()


@pytest.mark.release
def test_memory_comes_back_after_attacks(lab, scripted):
    town = Town(lab, scripted)

    def attack(times):
        for _ in range(times):
            agent, stream, _, _ = town.victim()
            agent.send_until_closed(frame(DATA, stream, bytes(LARGEST_PAYLOAD)), times=600)
            agent.expect_end("protocol")
            agent.close()
        town.nothing_is_left()
    attack(5)
    before = rss_kib(town.gateway.pid)
    attack(50)
    wait_until(lambda: rss_kib(town.gateway.pid) < before + 4096, 10, "the memory is back")
