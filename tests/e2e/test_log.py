"""The log events of the contract, of gateway and agent, with all their fields, as JSON and as text."""
import datetime
import re
import types

import pytest

from harness import round_trip, tcp, wait_until

TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
PEER = re.compile(r"127\.0\.0\.1:\d+")


def is_text(value):
    return isinstance(value, str) and value != ""


def is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_seconds(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 90


def check(event, **fields):
    """Asserts that the event has the fields: each a value, or a function that accepts it."""
    for name, want in fields.items():
        assert name in event, f"no {name} in {event}"
        good = want(event[name]) if callable(want) else event[name] == want
        assert good, f"{name} of {event}"


def check_frame(program):
    """Every line of the program is an event with a time, a level, a name and a text."""
    times = []
    for line, event in zip(program.lines, program.events, strict=True):
        assert TS.fullmatch(event["ts"]) and event["level"] in ("error", "warn", "info", "debug"), line
        assert is_text(event["event"]) and is_text(event["msg"]), line
        times.append(datetime.datetime.fromisoformat(event["ts"].replace("Z", "+00:00")))
    age = datetime.datetime.now(datetime.timezone.utc) - times[0]
    assert times == sorted(times) and age < datetime.timedelta(minutes=3)


@pytest.fixture
def story(lab):
    """One of each event: a tunnel that opens, one that is refused, a visitor, a bad token, a restart of the gateway."""
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [
        tcp("ssh", echo), tcp("no", echo, port=1, strict_port=True)], log_level="debug")
    port = agent.port_of("ssh")
    agent.wait_event("tunnel.refuse")
    assert round_trip(port, b"0123456789") == b"0123456789"
    gateway.wait_event("visitor.close")
    agent.wait_event("visitor.close")
    stranger = lab.agent(gateway, "pst_nonsense", [tcp("x", echo)])
    stranger.expect_exit(3)
    since = agent.mark()
    gateway.restart()
    agent.port_of("ssh", since=since)
    agent.stop()
    gateway.wait_event("session.close", user="alice", reason="stop")
    gateway.stop()
    return types.SimpleNamespace(gateway=gateway, agent=agent, target=echo.address, port=port)


def test_the_gateways_events(story):
    gateway, port = story.gateway, story.port
    check_frame(gateway)

    def first(event, **fields):
        return gateway.events_of(event, since=0, **fields)[0]
    check(first("gateway.listen"), what="control", address="127.0.0.1", port=gateway.port, level="info")
    first("gateway.ready"), first("gateway.stop")
    opened, closed = first("session.open"), first("session.close")
    check(opened, user="alice", session=is_count, peer=PEER.fullmatch, protocol="trunk", level="info")
    check(closed, user="alice", session=opened["session"], peer=opened["peer"], protocol="trunk", reason="shutdown",
          seconds=is_seconds)
    tunnel = {"user": "alice", "session": opened["session"], "tunnel": "ssh", "protocol": "tcp", "port": port,
              "host": None}
    check(first("tunnel.open"), **tunnel)
    check(first("tunnel.close"), **tunnel)
    check(first("tunnel.refuse"), user="alice", tunnel="no", reason="port_denied", level="warn")
    came, left = first("visitor.open"), first("visitor.close")
    check(came, user="alice", tunnel="ssh", peer=PEER.fullmatch, port=port, level="info")
    check(left, user="alice", tunnel="ssh", peer=came["peer"], port=port, reason="closed", bytes_in=10, bytes_out=10,
          seconds=is_seconds, level="info")
    check(first("auth.fail"), peer=PEER.fullmatch, reason="unknown_token", level="warn")


def test_the_agents_events(story):
    agent, gateway, port = story.agent, story.gateway, story.port
    check_frame(agent)

    def first(event, **fields):
        return agent.events_of(event, **fields)[0]
    check(first("agent.connected"), server=gateway.address, level="info")
    check(first("agent.retry"), server=gateway.address, reason=is_text, seconds=lambda s: 0.2 <= s < 1.5)
    opened = first("tunnel.open")
    check(opened, user="alice", session=is_count, tunnel="ssh", protocol="tcp", port=port, host=None,
          target=story.target, level="info")
    assert opened["msg"] == f"ssh: 127.0.0.1:{port} -> {story.target}"
    check(first("tunnel.refuse"), user="alice", tunnel="no", reason="port_denied")
    came, left = first("visitor.open"), first("visitor.close")
    visitor = gateway.events_of("visitor.open", since=0)[0]["peer"]
    check(came, user="alice", tunnel="ssh", peer=visitor, port=port, level="debug")
    check(left, user="alice", tunnel="ssh", peer=visitor, port=port, reason=is_text, bytes_in=10, bytes_out=10,
          seconds=is_seconds, level="debug")


def test_the_agent_tells_of_tunnels_that_close(lab):
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", echo), tcp("b", echo)])
    ports = [agent.port_of("a"), agent.port_of("b")]
    gateway.ctl("user", "limit", "alice", "--tunnels", "1")
    check(agent.wait_event("tunnel.close"), user="alice", session=is_count, tunnel="b", protocol="tcp", port=ports[1],
          host=None, target=echo.address, reason="limit")
    agent.reload(tunnels=[])
    check(agent.wait_event("tunnel.close", tunnel="a"), port=ports[0], target=echo.address)
    gateway.wait_event("tunnel.close", tunnel="a")


def test_what_goes_well_is_told_at_info_and_an_agents_visitors_at_debug(lab):
    gateway = lab.gateway(start=False, log_level="warn")
    token = gateway.token_for("alice")
    gateway.start(ready=False)
    agent = lab.agent(gateway, token, [tcp("a", lab.echo())])
    assert round_trip(agent.port_of("a"), b"hello") == b"hello"
    agent.stop()
    gateway.stop()
    assert agent.events_of("tunnel.open")
    assert not agent.events_of("visitor.open") and not agent.events_of("visitor.close")
    assert not gateway.events, "nothing was wrong"


# Text

def as_text(program):
    """Takes the --log options away: text is what the programs write by themselves."""
    at = program.argv.index("--log")
    del program.argv[at:at + 4]
    return program


def test_text_is_one_line_a_person_can_act_on(lab):
    gateway, echo = as_text(lab.gateway(start=False)), lab.echo()
    token = gateway.token_for("alice")
    gateway.start(ready=False).wait_line("gateway.ready")
    agent = as_text(lab.agent(gateway, token, [tcp("ssh", echo)], server=f"localhost:{gateway.port}", start=False))
    opened = agent.start().wait_line(r"ssh: localhost:(\d+) -> (\S+)")
    port = int(opened[1])
    assert opened[2] == echo.address
    assert round_trip(port, b"hello") == b"hello"
    gateway.wait_line("visitor.close")
    agent.stop()
    gateway.wait_line("session.close")
    gateway.stop()
    for program in (gateway, agent):
        for line in program.lines:
            assert TS.match(line) and not line.startswith("{"), line
            assert re.match(r"\S+ (ERROR|WARN|INFO|DEBUG) +[a-z_.]+: ", line), line
    for event, *fields in (
            ("gateway.listen", "what=control", "address=127.0.0.1", f"port={gateway.port}"), ("gateway.ready",),
            ("gateway.stop",), ("session.open", "user=alice", "session=1", "peer=127.0.0.1:", "protocol=trunk"),
            ("tunnel.open", "user=alice", "tunnel=ssh", "protocol=tcp", f"port={port}"),
            ("visitor.open", "user=alice", "tunnel=ssh", "peer=127.0.0.1:", f"port={port}"),
            ("visitor.close", "reason=closed", "bytes_in=5", "bytes_out=5", "seconds=0."),
            ("session.close", "user=alice", "reason=stop", "seconds=")):
        line = next(line for line in gateway.lines if f" {event}: " in line)
        assert all(f" {field}" in line for field in fields), (line, fields)


def test_the_configuration_chooses_the_format_and_a_reload_changes_it(lab):
    gateway = as_text(lab.gateway(start=False, log={"format": "json", "level": "warn"}))
    gateway.add_user("alice")
    gateway.start(ready=False)
    wait_until(lambda: (gateway.database / "postern.sock").exists())
    gateway.reload(log={"format": "text", "level": "info"})
    gateway.wait_line(r"^\S+ INFO  gateway\.reload: ")
    gateway.stop()
    assert not gateway.events_of("gateway.ready"), "warnings alone were wanted"
