"""The agent against a gateway that misbehaves, and one that sends it away: fakegateway.py in place of posternd."""
import re
import struct
import time

import pytest

from fakegateway import (CREDIT, DATA, DATAGRAM, FIN, FIRST_WINDOW, LARGEST_PAYLOAD, OPEN, OPENED, PING, PONG, RESET,
                         WELCOME, FakeGateway, control_frame, frame, open_payload)
from harness import tcp, wait_until

ABORTED, NO_TUNNEL = 1, 8  # reasons of a RESET
FIRST = 0x00010000  # the first stream: slot 0, generation 1


@pytest.fixture
def fake(lab, certs):
    gateway = FakeGateway(certs)
    yield gateway
    gateway.close()


def agent_of(lab, fake, *tunnels, **options):
    return lab.agent(fake, "a token", list(tunnels), **options)


# ---- before there is a session ----


def test_hello_says_who_the_agent_is(lab, fake):
    agent = agent_of(lab, fake, instance="box")
    link = fake.accept()
    hello = link.hello
    assert sorted(hello) == ["features", "instance", "previous", "run", "software", "token", "type", "version"]
    assert (hello["token"], hello["instance"], hello["previous"]) == ("a token", "box", "none")
    assert link.sock.selected_alpn_protocol() == "postern/1"
    agent.wait_event("agent.connected", server=fake.address, user="alice")
    link.close()
    again = fake.accept()
    assert again.hello["run"] == hello["run"] and again.hello["previous"] == "lost"


def test_a_welcome_in_single_bytes(lab, fake):
    agent = agent_of(lab, fake)
    link = fake.accept_tls()
    link.expect_control("hello")
    for byte in control_frame(WELCOME):
        link.send(bytes([byte]))
    agent.wait_event("agent.connected")


def test_a_later_run_has_another_name(lab, fake):
    agent = agent_of(lab, fake)
    link = fake.accept()
    agent.kill9()
    link.close()
    agent.start()
    assert fake.accept().hello["run"] != link.hello["run"]


def test_garbage_instead_of_tls(lab, fake):
    agent = agent_of(lab, fake)
    sock = fake.accept_raw()
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    retry = agent.wait_event("agent.retry", server=fake.address)
    assert retry["reason"] and 0.5 <= retry["seconds"] <= 30, retry
    fake.accept()
    agent.wait_event("agent.connected")


def test_an_end_before_tls(lab, fake):
    agent = agent_of(lab, fake)
    fake.accept_raw().close()
    agent.wait_event("agent.retry", reason=lambda r: "during the TLS handshake" in r)


def test_a_server_that_speaks_something_else(lab, certs):
    fake = FakeGateway(certs, alpn=None)
    agent = agent_of(lab, fake)
    fake.accept_tls()
    agent.wait_event("agent.retry", reason=lambda r: "does not speak postern/1" in r)
    fake.close()


@pytest.mark.parametrize("answer, says", [
    (b"", "instead of an answer"),
    (frame(PING, 0, bytes(8)), "protocol: the first frame"),
    (frame(99), "protocol: "),
    (frame(1, 0, b"{}", length=LARGEST_PAYLOAD + 1), "protocol: "),
    (control_frame(b"not json"), "protocol: "),
    (control_frame(WELCOME | {"more": 1}), "protocol: .*more"),
    (control_frame({k: v for k, v in WELCOME.items() if k != "dial_seconds"}), "protocol: .*dial_seconds"),
    (control_frame(WELCOME | {"dead_seconds": 0}), "protocol: .*dead_seconds"),
    (control_frame(WELCOME | {"version": 2}), "protocol: "),
    (control_frame({"type": "tunnel_closed", "tunnel": 1, "reason": "limit"}), "protocol: the gateway.s first message"),
    (control_frame({"type": "end", "reason": "unavailable", "message": "later"}), "^unavailable: later$"),
    (control_frame({"type": "end", "reason": "a_word_of_tomorrow"}), "^a_word_of_tomorrow$"),
    (control_frame({"type": "end", "reason": "certificate"}), "^certificate$"),
], ids=str)
def test_an_answer_that_is_no_welcome(lab, fake, answer, says):
    agent = agent_of(lab, fake)
    link = fake.accept_tls()
    link.expect_control("hello")
    link.send(answer)
    link.close()
    retry = agent.wait_event("agent.retry")
    assert re.search(says, retry["reason"]), retry
    fake.accept()  # and goes on trying


@pytest.mark.slow
def test_hello_that_is_never_answered(lab, fake):
    agent = agent_of(lab, fake)
    link = fake.accept_tls()
    link.expect_control("hello")
    agent.wait_event("agent.retry", timeout=30, reason=lambda r: "did not answer hello" in r)
    fake.accept()
    agent.wait_event("agent.connected")


@pytest.mark.parametrize("reason, status", [("unknown_token", 3), ("revoked", 3), ("expired", 3), ("removed", 3),
                                            ("banned", 3), ("takeover", 4)])
@pytest.mark.parametrize("when", ["instead of a welcome", "later"])
def test_an_end_for_good(lab, fake, reason, status, when):
    agent = agent_of(lab, fake)
    if when == "later":
        link = fake.accept()
    else:
        link = fake.accept_tls()
        link.expect_control("hello")
    link.control(type="end", reason=reason, message="so it is")
    agent.expect_exit(status)
    agent_end = agent.events_of("agent.end")[0]
    assert (agent_end["reason"], agent_end["message"]) == (reason, "so it is")
    assert not agent.events_of("agent.retry")


@pytest.mark.parametrize("when", ["instead of a welcome", "later"])
def test_an_end_until(lab, fake, when):
    agent = agent_of(lab, fake)
    if when == "later":
        link = fake.accept()
    else:
        link = fake.accept_tls()
        link.expect_control("hello")
    until = int(time.time()) + 3
    link.control(type="end", reason="banned", until=until)
    assert 1.5 < agent.wait_event("agent.retry")["seconds"] <= 3
    fake.accept()
    assert time.time() >= until - 0.1


# ---- a gateway that breaks the protocol ----


def in_session(lab, fake, target):
    """An agent with one open tunnel to the target; its link and the tunnel's number."""
    agent = agent_of(lab, fake, tcp("t", target), log_level="debug")
    link = fake.accept()
    number = link.serve_tunnels("t")["t"]
    agent.port_of("t")
    return agent, link, number


def test_a_stream_to_a_tunnel_that_is_not_offered(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    for slot, wrong in enumerate((number + 1, 0, 0xffffffff)):
        link.open(FIRST + slot, wrong)
        link.expect_reset(FIRST + slot, NO_TUNNEL)
        agent.wait_event("visitor.refuse", number=wrong)
    link.open(FIRST + 9, number)  # the others go on
    link.data(FIRST + 9, b"hello")
    link.expect_data(FIRST + 9, b"hello")


def test_a_stream_to_a_tunnel_that_is_not_open_yet(lab, fake):
    echo = lab.echo()
    agent = agent_of(lab, fake, tcp("t", echo))
    link = fake.accept()
    number = link.expect_control("tunnel_open", name="t")["tunnel"]
    link.open(FIRST, number)
    link.expect_reset(FIRST, NO_TUNNEL)
    link.control(type="tunnel_refused", tunnel=number, reason="port_denied", message="not yours")
    refused = agent.wait_event("tunnel.refuse", tunnel="t", reason="port_denied")
    assert "not yours" in refused["msg"]
    link.open(FIRST + 1, number)
    link.expect_reset(FIRST + 1, NO_TUNNEL)
    assert echo.stats.accepted == 0


def test_a_flood_of_unknown_tunnels_does_not_flood_the_log(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    for slot in range(500):
        link.open(FIRST + slot, number + 7)
        link.expect_reset(FIRST + slot, NO_TUNNEL)
    assert len(agent.events_of("visitor.refuse")) < 100


VIOLATIONS = {
    "an unknown type": lambda n: frame(99, 1),
    "a datagram": lambda n: frame(DATAGRAM, FIRST, b"x", flags=3),
    "flags": lambda n: frame(PING, 0, bytes(8), flags=1),
    "a length beyond the largest": lambda n: frame(DATA, FIRST, b"x", length=0xffff),
    "a short ping": lambda n: frame(PING, 0, bytes(7)),
    "a control message of nothing": lambda n: frame(1, 0, b""),
    "data of nothing": lambda n: open_stream(n) + frame(DATA, FIRST),
    "credit of nothing": lambda n: open_stream(n) + frame(CREDIT, FIRST, bytes(4)),
    "credit beyond the largest window": lambda n: open_stream(n) + frame(CREDIT, FIRST, struct.pack(">I", 1 << 24)),
    "credit that wraps": lambda n: open_stream(n) + frame(CREDIT, FIRST, b"\xff" * 4),
    "a short opening": lambda n: frame(OPEN, FIRST, open_payload(n)[:-1]),
    "an address of no family": lambda n: frame(OPEN, FIRST, struct.pack(">IBH", n, 5, 1) + bytes(4)),
    "an opening of slot and generation zero": lambda n: frame(OPEN, 0, open_payload(n)),
    "an opening of a later generation": lambda n: frame(OPEN, FIRST << 1, open_payload(n)),
    "a second opening": lambda n: open_stream(n) + open_stream(n),
    "an opening of a slot in use": lambda n: open_stream(n) + frame(OPEN, FIRST + 0x10000, open_payload(n)),
    "opened from the gateway": lambda n: open_stream(n) + frame(OPENED, FIRST),
    "data of no stream": lambda n: frame(DATA, FIRST + 3, b"x"),
    "an end of no stream": lambda n: frame(FIN, FIRST + 0xffff),
    "a reset of no stream": lambda n: frame(RESET, FIRST + 3, b"\1"),
    "data after the end": lambda n: open_stream(n) + frame(FIN, FIRST) + frame(DATA, FIRST, b"x"),
    "two ends": lambda n: open_stream(n) + frame(FIN, FIRST) + frame(FIN, FIRST),
    "a pong for nothing": lambda n: frame(PONG, 0, b"\xff" * 8),
    "a flood of pings": lambda n: frame(PING, 0, bytes(8)) * 2000,
    "no JSON": lambda n: control_frame(b"{\"type\":"),
    "an unknown message": lambda n: control_frame({"type": "run", "command": "x"}),
    "a key twice": lambda n: control_frame(b'{"type":"goaway","reason":"a","reason":"b","deadline_seconds":1}'),
    "a message of agents": lambda n: control_frame({"type": "tunnel_close", "tunnel": n}),
    "a second welcome": lambda n: control_frame(WELCOME),
    "a goaway far away": lambda n: control_frame({"type": "goaway", "reason": "a", "deadline_seconds": 86401}),
    "an opening on port 0": lambda n: control_frame({"type": "tunnel_opened", "tunnel": n, "port": 0}),
}


def open_stream(number):
    return frame(OPEN, FIRST, open_payload(number))


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation(lab, fake, name):
    agent, link, number = in_session(lab, fake, lab.sink())
    link.send(VIOLATIONS[name](number))
    said = link.expect_violation()
    assert said
    retry = agent.wait_event("agent.retry")
    assert retry["reason"] == f"protocol: {said}"
    assert fake.accept().hello["previous"] == "lost"


def test_bytes_beyond_the_credit(lab, fake):
    agent, link, number = in_session(lab, fake, lab.blackhole())
    link.open(FIRST, number)
    left = FIRST_WINDOW
    while left:
        link.data(FIRST, bytes(min(left, LARGEST_PAYLOAD)))
        left -= min(left, LARGEST_PAYLOAD)
    link.data(FIRST, b"x")
    assert "credit" in link.expect_violation()


def test_an_unknown_number_is_no_reason_to_fall(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    for message in ({"type": "tunnel_opened", "port": 1}, {"type": "tunnel_refused", "reason": "limit"},
                    {"type": "tunnel_closed", "reason": "limit"}):
        link.control(tunnel=number + 5, **message)
    link.open(FIRST, number)
    link.data(FIRST, b"still here")
    link.expect_data(FIRST, b"still here")


def test_texts_of_the_gateway_are_escaped_in_the_log(lab, fake):
    agent = agent_of(lab, fake, tcp("t", lab.echo()))
    link = fake.accept()
    number = link.expect_control("tunnel_open")["tunnel"]
    link.control(type="tunnel_refused", tunnel=number, reason="limit", message="a\nb\x1b[2J\u202e")
    agent.wait_event("tunnel.refuse")
    assert not any("\x1b" in line or line == "b" for line in agent.lines)


def test_a_gateway_that_falls_silent(lab, fake):
    agent = agent_of(lab, fake)
    fake.accept(heartbeat_seconds=1, dead_seconds=2)
    agent.wait_event("agent.retry", reason=lambda r: r.startswith("dead: "))
    assert fake.accept().hello["previous"] == "lost"


# ---- tunnels ----


def test_a_refused_tunnel_is_asked_for_again_while_the_others_work(lab, fake):
    echo = lab.echo()
    agent = agent_of(lab, fake, tcp("a", echo), tcp("b", echo, port=20033, strict_port=True, description="the door"))
    link = fake.accept()
    a = link.expect_control("tunnel_open", name="a", protocol="tcp", port=0, strict_port=False)["tunnel"]
    b = link.expect_control("tunnel_open", name="b", port=20033, strict_port=True, description="the door")["tunnel"]
    link.control(type="tunnel_opened", tunnel=a, port=20022)
    link.control(type="tunnel_refused", tunnel=b, reason="port_in_use")
    opened = agent.wait_event("tunnel.open", tunnel="a", port=20022, protocol="tcp", user="alice", session=1,
                              target=echo.address)
    assert opened["msg"] == f"a: 127.0.0.1:20022 -> {echo.address}"
    agent.wait_event("tunnel.refuse", tunnel="b", reason="port_in_use", user="alice")
    link.open(FIRST, a)
    link.data(FIRST, b"works")
    link.expect_data(FIRST, b"works")
    link.expect_control("tunnel_open", name="b", tunnel=b)
    link.control(type="tunnel_opened", tunnel=b, port=20033)
    assert agent.port_of("b") == 20033


def test_a_tunnel_that_the_gateway_closes_is_asked_for_again(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    link.control(type="tunnel_closed", tunnel=number, reason="port_lost")
    agent.wait_event("tunnel.close", tunnel="t", reason="port_lost")
    link.open(FIRST, number)
    link.expect_reset(FIRST, NO_TUNNEL)
    mark = agent.mark()
    link.expect_control("tunnel_open", tunnel=number, name="t")
    link.control(type="tunnel_opened", tunnel=number, port=20044)
    assert agent.port_of("t", since=mark) == 20044


def test_a_resumed_session_keeps_its_tunnels(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    link.close()
    link = fake.accept(resumed=True)
    link.open(FIRST, number)  # before anything is asked for again
    link.data(FIRST, b"hello")
    link.expect_control("tunnel_open", tunnel=number)
    link.control(type="tunnel_opened", tunnel=number, port=20022)
    link.expect_data(FIRST, b"hello")
    assert len(agent.events_of("tunnel.open")) == 1  # the same port is no news


def test_a_new_session_begins_with_no_tunnel(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    link.close()
    link = fake.accept(session=2)
    link.open(FIRST, number)
    link.expect_control("tunnel_open", tunnel=number)
    link.expect_reset(FIRST, NO_TUNNEL)
    link.control(type="tunnel_opened", tunnel=number, port=20022)
    agent.wait_event("tunnel.open", session=2, port=20022)


def test_a_withdrawn_tunnel_stays_withdrawn_over_a_reconnect(lab, fake):
    echo = lab.echo()
    agent = agent_of(lab, fake, tcp("a", echo), tcp("b", echo))
    link = fake.accept()
    numbers = link.serve_tunnels("a", "b")
    agent.port_of("b")
    agent.reload(tunnels=[tcp("a", echo)])
    link.expect_control("tunnel_close", tunnel=numbers["b"])
    link.open(FIRST, numbers["b"])
    link.expect_reset(FIRST, NO_TUNNEL)
    link.close()  # without a word about it
    link = fake.accept(resumed=True)
    link.expect_control("tunnel_close", tunnel=numbers["b"])
    link.expect_control("tunnel_open", tunnel=numbers["a"])
    link.control(type="tunnel_closed", tunnel=numbers["b"], reason="requested")
    link.close()
    link = fake.accept(resumed=True)
    link.expect_control("tunnel_open", tunnel=numbers["a"])  # and nothing about b any more
    assert not agent.events_of("visitor.refuse")  # a visitor who came too late is no misdeed


# ---- goaway ----


def test_goaway_brings_a_second_link_and_the_first_one_drains(lab, fake):
    echo = lab.echo()
    agent, old, number = in_session(lab, fake, echo)
    old.open(FIRST, number)
    old.data(FIRST, b"one")
    old.expect_data(FIRST, b"one")
    old.control(type="goaway", reason="shutdown", deadline_seconds=60)
    new = fake.accept(resumed=True)
    assert (new.hello["run"], new.hello["previous"]) == (old.hello["run"], "draining")
    new.expect_control("tunnel_open", tunnel=number)
    new.control(type="tunnel_opened", tunnel=number, port=20022)
    new.open(FIRST, number)
    new.data(FIRST, b"two")
    new.expect_data(FIRST, b"two")
    old.data(FIRST, b"three")  # both carry streams at once
    old.expect_data(FIRST, b"three")
    assert echo.stats.accepted == 2 and len(agent.events_of("tunnel.open")) == 1

    old.send(frame(FIN, FIRST))
    assert old.expect(FIN, FIRST) == b""
    old.expect_close()
    new.data(FIRST, b"four")
    new.expect_data(FIRST, b"four")
    assert not agent.events_of("agent.retry")


def test_goaway_without_streams(lab, fake):
    agent, old, number = in_session(lab, fake, lab.echo())
    old.control(type="goaway", reason="shutdown", deadline_seconds=60)
    new = fake.accept()  # another session: a gateway that was upgraded
    new.serve_tunnels("t")
    old.expect_close()
    new.open(FIRST, number)
    new.data(FIRST, b"hello")
    new.expect_data(FIRST, b"hello")


def test_goaway_ends_at_its_deadline(lab, fake):
    echo = lab.echo()
    agent, old, number = in_session(lab, fake, echo)
    old.open(FIRST, number)
    old.data(FIRST, b"one")
    old.expect_data(FIRST, b"one")
    old.control(type="goaway", reason="shutdown", deadline_seconds=1)
    new = fake.accept(resumed=True)
    old.expect_close()
    wait_until(lambda: echo.stats.open == 0, what="the target's connection ends")
    new.expect_control("tunnel_open", tunnel=number)


def test_goaway_and_no_gateway_to_go_to(lab, fake):
    agent, old, number = in_session(lab, fake, lab.echo())
    old.open(FIRST, number)
    old.control(type="goaway", reason="shutdown", deadline_seconds=60)
    fake.accept_raw().close()
    agent.wait_event("agent.retry")
    old.data(FIRST, b"goes on")
    old.expect_data(FIRST, b"goes on")
    assert fake.accept(resumed=True).hello["previous"] == "draining"


def test_an_old_link_of_another_session_cannot_touch_the_tunnels(lab, fake):
    echo = lab.echo()
    agent, old, number = in_session(lab, fake, echo)
    old.open(FIRST, number)
    old.control(type="goaway", reason="shutdown", deadline_seconds=60)
    new = fake.accept(session=2)
    new.serve_tunnels("t")
    agent.wait_event("tunnel.open", session=2)
    old.control(type="tunnel_closed", tunnel=number, reason="limit")
    old.open(FIRST + 1, number)
    old.expect_reset(FIRST + 1, NO_TUNNEL)
    new.open(FIRST, number)
    new.data(FIRST, b"hello")
    new.expect_data(FIRST, b"hello")


# ---- streams ----


def test_opened_comes_without_data(lab, fake):
    agent, link, number = in_session(lab, fake, lab.sink())
    link.open(FIRST, number)
    link.expect(OPENED, FIRST)


def test_a_fin_before_the_target_is_reached(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    link.send(open_stream(number) + frame(DATA, FIRST, b"all at once") + frame(FIN, FIRST))
    link.expect_data(FIRST, b"all at once")
    link.expect(FIN, FIRST)
    agent.wait_event("visitor.close", reason="done", bytes_in=11, bytes_out=11, peer="192.0.2.9:4711", tunnel="t")


def test_a_fin_before_the_target_is_reached_by_name(lab, fake):
    echo = lab.echo()
    agent, link, number = in_session(lab, fake, f"localhost:{echo.port}")
    for slot in range(3):
        payload = bytes([65 + slot]) * 50000
        pieces = [frame(DATA, FIRST + slot, payload[at:at + 10000]) for at in range(0, len(payload), 10000)]
        link.send(frame(OPEN, FIRST + slot, open_payload(number)) + b"".join(pieces) + frame(FIN, FIRST + slot))
        link.expect_data(FIRST + slot, payload)
        link.expect(FIN, FIRST + slot)
    agent.wait_event("visitor.close", reason="done", count=3)


def test_a_reset_passes_on(lab, fake):
    target = lab.reset_target(on_first_data=True)
    agent, link, number = in_session(lab, fake, target)
    link.open(FIRST, number)
    link.data(FIRST, b"x")
    link.expect_reset(FIRST, ABORTED)

    link.open(FIRST + 1, number)
    link.expect(OPENED, FIRST + 1)
    wait_until(lambda: target.stats.open == 1)
    link.send(frame(RESET, FIRST + 1, b"\1"))
    wait_until(lambda: target.stats.resets == 1, what="the target sees the reset")


def test_a_slot_is_used_again(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    for generation in range(1, 200):
        stream = generation << 16
        link.send(frame(OPEN, stream, open_payload(number)) + frame(DATA, stream, b"x") + frame(FIN, stream))
        link.expect_data(stream, b"x")
        link.expect(FIN, stream)


# ---- the end ----


def test_the_agent_says_that_it_leaves(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    agent.signal(15)
    link.expect_control("end", reason="stop")
    link.close()
    agent.expect_exit(0, timeout=2)


def test_the_agent_leaves_although_nobody_listens(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    link.open(FIRST, number)
    link.expect(OPENED, FIRST)
    agent.stop(timeout=2)


def test_a_second_signal_ends_the_agent_at_once(lab, fake):
    agent, link, number = in_session(lab, fake, lab.echo())
    agent.signal(15)
    link.expect_control("end", reason="stop")
    agent.signal(2)
    agent.expect_exit(0, timeout=0.7)
