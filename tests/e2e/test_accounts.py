"""What the gateway says about its sessions in numbers, against what was really sent, and what the audit keeps."""
import datetime
import os

import pytest

from harness import abort, connect, echo_all, how_visit_ends, recv_all, recv_exact, round_trip, tcp, wait_until

SUMS = ("tunnels", "visitors", "bytes_in", "bytes_out")


@pytest.fixture
def house(lab):
    """A gateway with two users and three sessions; `ports_of` each session's echo."""
    gateway, echo = lab.gateway(), lab.echo()
    alice, bob = gateway.token_for("alice"), gateway.token_for("bob")
    source = lab.source(bytes(1000), total=70_000)
    home = lab.agent(gateway, alice, [tcp("echo", echo), tcp("source", source)], instance="home")
    office = lab.agent(gateway, alice, [tcp("echo", echo)], instance="office")
    bobs = lab.agent(gateway, bob, [tcp("echo", echo), tcp("nobody", lab.refused_port())])
    gateway.ports_of = {("alice", "home"): home.port_of("echo"), ("alice", "office"): office.port_of("echo"),
                        ("bob", "default"): bobs.port_of("echo")}
    gateway.source_port, gateway.refused_port = home.port_of("source"), bobs.port_of("nobody")
    return gateway


def numbers(gateway):
    return {(s["user"], s["instance"]): tuple(s[key] for key in SUMS) for s in gateway.sessions()}


def expect_numbers(gateway, wanted):
    seen = {}

    def are_right():
        seen.clear()
        seen.update(numbers(gateway))
        return seen == wanted
    wait_until(are_right, 5, seen)


def test_numbers_of_sessions_are_what_was_sent(lab, house):
    home, office, bob = ("alice", "home"), ("alice", "office"), ("bob", "default")
    expect_numbers(house, {home: (2, 0, 0, 0), office: (1, 0, 0, 0), bob: (2, 0, 0, 0)})

    # While the visitors are there …
    visitors = lab.visits(house.ports_of[home], 3)
    echo_all(visitors, bytes(5000))
    others = lab.visits(house.ports_of[bob], 2)
    echo_all(others, bytes(300_000))
    expect_numbers(house, {home: (2, 3, 15_000, 15_000), office: (1, 0, 0, 0), bob: (2, 2, 600_000, 600_000)})

    # … and when they are gone: in is what came from visitors, out what went to them.
    with connect(house.source_port) as reader:
        reader.sendall(b"a question")
        assert len(recv_all(reader)) == 70_000
    for visitor in visitors:
        visitor.close()
    abort(others.pop())
    assert how_visit_ends(house.refused_port) == "reset"
    expect_numbers(house, {home: (2, 0, 15_010, 85_000), office: (1, 0, 0, 0), bob: (2, 1, 600_000, 600_000)})

    # The log adds up to the same.
    closes = house.events_of("visitor.close", user="alice")
    assert sum(event["bytes_in"] for event in closes) == 15_010
    assert sum(event["bytes_out"] for event in closes) == 85_000


def test_status_adds_the_sessions_up(lab, house):
    visitors = [lab.visit(port) for port in house.ports_of.values()]
    echo_all(visitors, bytes(10_000))
    wait_until(lambda: house.ctl("status", json=True)["bytes_out"] == 30_000, 5)
    status = house.ctl("status", json=True)
    assert {key: status[key] for key in ("sessions", *SUMS)} == {
        "sessions": 3, "tunnels": 5, "visitors": 3, "bytes_in": 30_000, "bytes_out": 30_000}
    assert status["workers"] == 2 and 0 <= status["uptime_seconds"] < 90
    assert status["version"] in lab.run("posternd", "--version").stdout


def test_a_session_is_listed_as_it_was_logged(house):
    opened = {event["session"]: event for event in house.events_of("session.open")}
    listed = {session["id"]: session for session in house.sessions()}
    assert opened.keys() == listed.keys()
    for number, session in listed.items():
        for field in ("user", "peer", "protocol", "instance"):
            assert session[field] == opened[number][field]
        assert abs(seconds_between(session["since"], opened[number]["ts"])) < 2


def test_what_was_moved_before_a_failure_counts(lab):
    """A visitor that leaves in the middle: what it took counts, and it is no visitor any more."""
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("source", lab.source(bytes(65536), total=1 << 40))])
    visitor = lab.visit(agent.port_of("source"))
    recv_exact(visitor, 3_000_000)
    abort(visitor)
    closed = gateway.wait_event("visitor.close", reason="visitor_aborted")
    assert closed["bytes_out"] >= 3_000_000 and closed["bytes_in"] == 0
    session, = gateway.sessions()
    assert session["visitors"] == 0 and session["bytes_out"] == closed["bytes_out"]


def seconds_between(one, other):
    first, second = (datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (one, other))
    return (second - first).total_seconds()


# Audit

def rows_of(gateway, *actions):
    """What the audit has of these actions: (action, actor, user, detail, count)."""
    return [(row["action"], row["actor"], row["user"] or "", row["detail"], row["count"])
            for row in gateway.ctl("audit", json=True) if row["action"] in actions]


def test_the_audit_of_a_session(lab):
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", lab.echo())], instance="home")
    port = agent.port_of("a")
    first, since = gateway.wait_event("session.open"), agent.mark()
    gateway.ctl("session", "kick", "alice/home")
    second = gateway.wait_event("session.open", count=2)
    agent.port_of("a", since=since)
    assert round_trip(port, b"hello") == b"hello"
    gateway.ctl("user", "ban", "alice", "--reason", "too loud")
    agent.expect_exit(3)
    gateway.wait_event("session.close", count=2)
    cli = f"cli:uid {os.getuid()}"
    wanted = [("session.open", first["peer"], "alice", "home", 1), ("session.close", first["peer"], "alice", "kicked", 1),
              ("session.open", second["peer"], "alice", "home", 1), ("user.ban", cli, "alice", "for good: too loud", 1),
              ("session.close", second["peer"], "alice", "banned", 1)]
    wait_until(lambda: len(rows_of(gateway, "session.open", "session.close", "user.ban")) == 5, 5)
    assert rows_of(gateway, "session.open", "session.close", "user.ban") == wanted
    kicks = rows_of(gateway, "session.kick")
    assert [(user, detail, count) for _, _, user, detail, count in kicks] == [("alice", "home", 1)]


def test_the_audit_sums_failures_up(lab):
    """The first failure of an address and reason is a row at once, those that follow are one more."""
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    gateway.ctl("token", "revoke", token.split("_")[1])
    revoked = lab.agent(gateway, token, [], start=False)
    for _ in range(4):
        revoked.start().expect_exit(3)
    wait_until(lambda: rows_of(gateway, "auth.fail"), 5)
    assert rows_of(gateway, "auth.fail") == [("auth.fail", "127.0.0.1", "alice", "revoked", 1)]
    lab.agent(gateway, "pst_nonsense", []).expect_exit(3)
    gateway.stop()
    assert sorted(rows_of(gateway, "auth.fail")) == [
        ("auth.fail", "127.0.0.1", "", "unknown_token", 1), ("auth.fail", "127.0.0.1", "alice", "revoked", 1),
        ("auth.fail", "127.0.0.1", "alice", "revoked", 3)]
    assert len(gateway.events_of("auth.fail")) == 5


def test_the_use_of_a_token_is_noted(lab):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    other = gateway.create_token("alice")
    lab.agent(gateway, token, [], connected=True)
    opened = gateway.wait_event("session.open")

    def row_of(secret):
        return next(row for row in gateway.tokens("alice") if row["id"] == secret.split("_")[1])
    wait_until(lambda: row_of(token)["last_used"], 5)
    assert row_of(token)["last_peer"] == opened["peer"]
    assert row_of(other)["last_used"] is None and row_of(other)["last_peer"] is None
