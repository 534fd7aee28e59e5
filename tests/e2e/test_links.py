"""One session, one or two links: goaway, resumption, and what becomes of the streams of the link before."""
import socket

import pytest

from harness import expect_open, expect_reset, how_closed, port_is_free, recv_exact
from trunk_peer import FIN, hello, scripted, stream_id


def goaway(agent, seconds=60):
    agent.control({"type": "goaway", "reason": "upgrade", "deadline_seconds": seconds})


class Session:
    """Alice's session over one link with a tunnel and a visitor on it."""

    def __init__(self, lab, scripted, **gateway_options):
        self.lab, self.scripted = lab, scripted
        self.gateway = lab.gateway(**gateway_options)
        self.token = self.gateway.token_for("alice")
        self.first = scripted(self.gateway, self.token)
        self.port = self.first.open_tunnel()
        self.visitor, self.stream = self.visit(self.first)

    def visit(self, agent):
        visitor = self.lab.visit(self.port)
        return visitor, agent.expect_stream()

    def another(self, previous, token=None):
        """A further link of the same run."""
        link = self.scripted(self.gateway, token or self.token, run=self.first.run, previous=previous)
        assert link.welcome["session"] == self.first.welcome["session"] and link.welcome["resumed"] is True
        return link


@pytest.fixture
def session(lab, scripted):
    return Session(lab, scripted)


def exchange_on(agent, stream, visitor):
    visitor.sendall(b"question")
    agent.expect_data(stream, b"question")
    agent.data(stream, b"answer")
    assert recv_exact(visitor, 6) == b"answer"


def finish(agent, stream, visitor):
    visitor.shutdown(socket.SHUT_WR)
    agent.expect(FIN, stream)
    agent.frame(FIN, stream)
    assert how_closed(visitor) == "fin"


@pytest.mark.tsan
def test_streams_finish_on_the_old_link_while_new_ones_come_on_the_new(session):
    goaway(session.first)
    second = session.another("draining")
    visitor, stream = session.visit(second)
    assert stream == stream_id(0, 1)  # ids are a link's own
    exchange_on(second, stream, visitor)
    exchange_on(session.first, session.stream, session.visitor)
    assert second.open_tunnel() == session.port  # asked for again: still open
    assert len(session.gateway.sessions()) == 1
    finish(session.first, session.stream, session.visitor)
    session.first.expect_close()
    session.gateway.wait_event("link.close", user="alice", msg="drained")
    exchange_on(second, stream, visitor)
    assert not session.gateway.events_of("session.close")


def test_visitors_wait_between_goaway_and_the_new_link(session):
    goaway(session.first)
    session.first.expect_alive()
    waiting = session.lab.visit(session.port)
    waiting.sendall(b"early")
    exchange_on(session.first, session.stream, session.visitor)
    expect_open(waiting)
    second = session.another("draining")
    stream = second.expect_stream()
    second.expect_data(stream, b"early")
    second.data(stream, b"served")
    assert recv_exact(waiting, 6) == b"served"


def test_a_goaway_without_streams_ends_the_link_and_not_the_session(session):
    finish(session.first, session.stream, session.visitor)
    goaway(session.first)
    session.first.expect_close()
    waiting = session.lab.visit(session.port)
    second = session.another("draining")
    second.data(second.expect_stream(), b"served")
    assert recv_exact(waiting, 6) == b"served"


@pytest.mark.parametrize("seconds", [0, 1])
def test_what_is_left_at_the_deadline_is_reset(session, seconds):
    second = session.another("draining")
    visitor, stream = session.visit(second)
    goaway(session.first, seconds)
    if seconds:
        exchange_on(session.first, session.stream, session.visitor)
    expect_reset(session.visitor, seconds + 2)
    session.gateway.wait_event("link.close", user="alice", msg=lambda text: "deadline" in text)
    closed = session.gateway.wait_event("visitor.close", user="alice")
    assert closed["reason"] == "link_lost"
    exchange_on(second, stream, visitor)


def test_a_lost_previous_link_is_closed_at_once(session):
    second = session.another("lost")
    expect_reset(session.visitor, 1)
    session.first.expect_close()
    visitor, stream = session.visit(second)
    exchange_on(second, stream, visitor)


def test_a_third_link_displaces_the_oldest(session):
    second = session.another("draining")
    middle, middle_stream = session.visit(second)
    third = session.another("draining")
    expect_reset(session.visitor, 1)
    session.first.expect_close()
    session.gateway.wait_event("link.close", user="alice", msg="displaced by a newer link")
    exchange_on(second, middle_stream, middle)
    visitor, stream = session.visit(third)
    exchange_on(third, stream, visitor)


def test_a_lost_newest_link_leaves_the_draining_one(session):
    """Visitors wait, for the draining link takes none; the next link serves them."""
    second = session.another("draining")
    second.close()
    session.gateway.wait_event("link.close", user="alice")
    waiting = session.lab.visit(session.port)
    exchange_on(session.first, session.stream, session.visitor)
    expect_open(waiting)
    third = session.another("draining")
    third.data(third.expect_stream(), b"served")
    assert recv_exact(waiting, 6) == b"served"
    exchange_on(session.first, session.stream, session.visitor)


def test_a_violation_on_the_old_link_ends_the_whole_session(session):
    second = session.another("draining")
    visitor, _ = session.visit(second)
    session.first.frame(99)
    assert "unknown type" in session.first.expect_end("protocol")["message"]
    assert "unknown type" in second.expect_end("protocol")["message"]
    expect_reset(visitor)
    expect_reset(session.visitor)
    session.gateway.wait_event("session.close", user="alice", reason="protocol")
    assert port_is_free(session.port)


def test_end_of_the_session_is_said_on_both_links(session):
    second = session.another("draining")
    session.gateway.ctl("session", "kick", "alice")
    session.first.expect_end("kicked")
    second.expect_end("kicked")


# Who may resume

def test_resumption_with_another_token_of_the_user(session):
    """The session then lives by that token: the first one may go, and with the second one it ends."""
    other = session.gateway.create_token("alice")
    second = session.another("lost", token=other)
    visitor, stream = session.visit(second)
    bob = session.scripted(session.gateway, session.gateway.token_for("bob"))
    session.gateway.ctl("token", "revoke", session.token.split("_")[1])
    session.gateway.ctl("user", "ban", "bob")
    bob.expect_end("banned")  # the change before has been seen too
    exchange_on(second, stream, visitor)
    session.gateway.ctl("token", "revoke", other.split("_")[1])
    second.expect_end("revoked")
    expect_reset(visitor, 1)


def test_another_user_cannot_resume(session):
    stranger = session.scripted(session.gateway, session.gateway.token_for("mallory"), run=session.first.run,
                                previous="lost")
    assert stranger.welcome["resumed"] is False and stranger.welcome["session"] != session.first.welcome["session"]
    exchange_on(session.first, session.stream, session.visitor)


def test_a_session_that_a_ban_ended_is_not_resumed(session):
    session.gateway.ctl("user", "ban", "alice")
    session.first.expect_end("banned")
    refused = session.scripted(session.gateway, login=False)
    refused.control(hello(session.token, run=session.first.run, previous="lost"))
    refused.expect_end("banned")
    session.gateway.ctl("user", "unban", "alice")
    fresh = session.scripted(session.gateway, session.token, run=session.first.run, previous="lost")
    assert fresh.welcome["resumed"] is False and fresh.welcome["session"] != session.first.welcome["session"]
    assert fresh.open_tunnel() == session.port


def test_a_session_that_nobody_resumes_ends(lab, scripted):
    session = Session(lab, scripted, limits={"heartbeat_seconds": 1, "dead_seconds": 2})
    session.first.close()
    session.gateway.wait_event("session.close", user="alice", reason=lambda text: text.startswith("lost"), timeout=4)
    assert port_is_free(session.port)
    fresh = session.scripted(session.gateway, session.token, run=session.first.run, previous="lost")
    assert fresh.welcome["resumed"] is False


def test_resumed_and_dropped_a_hundred_times(session):
    """No link, stream or descriptor is left over, and the tunnel stays where it is."""
    for _ in range(100):
        link = session.another("lost")
        link.close()
    last = session.another("lost")
    visitor, stream = session.visit(last)
    exchange_on(last, stream, visitor)
    row, = session.gateway.sessions()
    assert row["visitors"] == 1 and row["tunnels"] == 1
