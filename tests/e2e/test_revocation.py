"""Bans, revoked and expired tokens, removed users, kicks: what is no longer allowed ends within a second, live."""
import datetime
import threading
import time

import pytest

from harness import echo_all, port_is_free, random_payload, recv_exact, round_trip, scaled, tcp, wait_all_closed, wait_until

IDLE, DOWNLOADS, BLOCKED, DIALLING = 180, 10, 10, 5


class Talk:
    """A visitor of somebody else's, who goes on talking on a thread and must not notice anything."""

    def __init__(self, visitor):
        self._visitor, self._over, self._failure = visitor, False, None
        self.rounds, self.longest = 0, 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        payload = random_payload(64_000)
        try:
            while not self._over:
                began = time.monotonic()
                self._visitor.sendall(payload)
                assert recv_exact(self._visitor, len(payload)) == payload
                self.longest = max(self.longest, time.monotonic() - began)
                self.rounds += 1
        except Exception as failure:  # shown by check()
            self._failure = failure

    def check(self):
        """Asserts that it went on without a break, and still does."""
        before = self.rounds
        wait_until(lambda: self._failure or self.rounds > before, 5, "the talk goes on")
        self._over = True
        self._thread.join()
        assert self._failure is None and self.longest < scaled(1), (self._failure, self.longest)


class Scene:
    """Alice's agent with more than two hundred live streams of every kind, and Bob, who has nothing to do with it."""

    def __init__(self, lab, token_options=None):
        self.lab, self.gateway = lab, lab.gateway()
        echo = lab.echo()
        self.bob = lab.agent(self.gateway, self.gateway.token_for("bob"), [tcp("echo", echo)])
        self.token = self.gateway.token_for("alice", **(token_options or {}))
        self.tunnels = [tcp("echo", echo), tcp("source", lab.source(bytes(65536), total=1 << 40)),
                        tcp("sink", lab.sink()), tcp("hole", lab.blackhole())]
        self.alice = lab.agent(self.gateway, self.token, self.tunnels)
        self.ports = {tunnel["name"]: self.alice.port_of(tunnel["name"]) for tunnel in self.tunnels}
        idle = lab.visits(self.ports["echo"], IDLE)
        echo_all(idle, b"hello")
        self.live = [*idle, *lab.visits(self.ports["source"], DOWNLOADS), *self._blocked(),
                     *lab.visits(self.ports["hole"], DIALLING)]
        self.bobs_port = self.bob.port_of("echo")
        self.bobs_crowd = lab.visits(self.bobs_port, 20)
        echo_all(self.bobs_crowd, b"hello")
        self.talk = Talk(lab.visit(self.bobs_port))
        wait_until(lambda: self.visitors_of("alice") == len(self.live), what="all visitors are there")
        self.bobs_since = self.gateway.mark()

    def _blocked(self):
        """Visitors whose bytes nobody takes."""
        visitors = self.lab.visits(self.ports["sink"], BLOCKED)
        for visitor in visitors:
            visitor.setblocking(False)
            try:
                while True:
                    visitor.send(bytes(65536))
            except BlockingIOError:
                pass
        return visitors

    def visitors_of(self, user):
        return sum(s["visitors"] for s in self.gateway.sessions() if s["user"] == user)

    def expect_closed(self, timeout=1.0):
        """Every live stream of Alice ends as a failure, and her ports are free, within the time."""
        deadline = time.monotonic() + scaled(timeout)
        assert set(wait_all_closed(self.live, timeout)) == {"reset"}
        wait_until(lambda: all(map(port_is_free, self.ports.values())), (deadline - time.monotonic()) / scaled(1),
                   "her ports are free")

    def expect_bob_unharmed(self):
        self.talk.check()
        echo_all(self.bobs_crowd, random_payload(10_000))
        assert not self.gateway.events_of("session.close", since=self.bobs_since, user="bob")
        assert not self.gateway.events_of("visitor.close", since=self.bobs_since, user="bob")

    def expect_refused(self, reason):
        """The agent ended with 3, and does so again when it is started anew."""
        self.alice.expect_exit(3)
        since = self.gateway.mark()
        self.alice.start().expect_exit(3)
        self.gateway.wait_event("auth.fail", since=since, reason=reason, peer=lambda p: p.startswith("127.0.0.1:"))

    def expect_back(self, since, timeout=10.0):
        """The agent came back by itself: each tunnel on the port it had, and serving."""
        for name, port in self.ports.items():
            assert self.alice.port_of(name, since=since, timeout=timeout) == port
        payload = random_payload(100_000)
        assert round_trip(self.ports["echo"], payload) == payload


def id_of(token):
    return token.split("_")[1]


@pytest.mark.parametrize("command,live,later", [
    (["user", "ban", "alice", "--reason", "too loud"], "banned", "banned"),
    (["token", "revoke"], "revoked", "revoked"),
    (["user", "remove", "alice"], "removed", "unknown_token"),
], ids=["ban", "revoke", "remove"])
def test_closes_every_stream_and_refuses_the_agent(lab, command, live, later):
    scene = Scene(lab)
    scene.gateway.ctl(*command, *([id_of(scene.token)] if command[1] == "revoke" else []))
    scene.expect_closed()
    scene.gateway.wait_event("session.close", user="alice", reason=live)
    scene.expect_refused(later)
    scene.expect_bob_unharmed()


def test_a_temporary_ban_is_waited_out(lab):
    scene = Scene(lab)
    since, at_gateway = scene.alice.mark(), scene.gateway.mark()
    banned = scene.gateway.ctl("user", "ban", "alice", "--for", "3s", json=True)
    until = datetime.datetime.fromisoformat(banned["ban"]["until"].replace("Z", "+00:00")).timestamp()
    scene.expect_closed()
    retry = scene.alice.wait_event("agent.retry", since=since, reason=lambda r: r.startswith("banned"))
    assert until - time.time() - 1 < retry["seconds"] < 4
    scene.expect_back(since)
    assert until <= time.time() < until + scaled(2)
    assert not scene.gateway.events_of("auth.fail", since=at_gateway), "it knocked before the ban had ended"
    scene.expect_bob_unharmed()


def test_an_agent_that_starts_during_a_temporary_ban_waits(lab):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    gateway.ctl("user", "ban", "alice", "--for", "2s")
    agent = lab.agent(gateway, token, [tcp("echo", lab.echo())])
    gateway.wait_event("auth.fail", user="alice", reason="banned")
    agent.wait_event("agent.retry", reason=lambda r: r.startswith("banned"), seconds=lambda s: s < 3)
    assert round_trip(agent.port_of("echo"), b"patience") == b"patience"


def test_unban_lets_the_user_in_again(lab):
    gateway = lab.gateway()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", lab.echo())])
    port = agent.port_of("echo")
    gateway.ctl("user", "ban", "alice")
    agent.expect_exit(3)
    gateway.ctl("user", "unban", "alice")
    assert agent.start().port_of("echo") == port


def test_a_token_expires_under_live_streams(lab):
    scene = Scene(lab, {"expires": "4s"})
    expires = scene.gateway.tokens("alice")[0]["expires"]
    left = datetime.datetime.fromisoformat(expires.replace("Z", "+00:00")).timestamp() - time.time()
    assert left > 0, "the scene took longer to set than the token lives"
    began = time.monotonic()
    scene.expect_closed(timeout=left + 1.0)
    assert time.monotonic() - began >= left, "closed before the token had expired"
    scene.gateway.wait_event("session.close", user="alice", reason="expired")
    scene.expect_refused("expired")
    scene.expect_bob_unharmed()


def test_a_kicked_agent_comes_back_by_itself(lab):
    scene = Scene(lab)
    since = scene.alice.mark()
    scene.gateway.ctl("session", "kick", "alice")
    assert set(wait_all_closed(scene.live, 1.0)) == {"reset"}
    scene.gateway.wait_event("session.close", user="alice", reason="kicked")
    scene.expect_back(since)
    assert len(scene.alice.events_of("agent.connected", since=since)) == 1
    scene.expect_bob_unharmed()


def test_only_what_was_named_is_closed(lab):
    """One token of several, one instance of several."""
    gateway, echo = lab.gateway(), lab.echo()
    home, office = gateway.token_for("alice"), gateway.create_token("alice")
    agents = {name: lab.agent(gateway, token, [tcp("echo", echo)], instance=name)
              for name, token in (("home", home), ("office", office), ("desk", office))}
    visitors = {name: lab.visit(agent.port_of("echo")) for name, agent in agents.items()}
    echo_all(list(visitors.values()), b"hello")

    gateway.ctl("token", "revoke", id_of(home))
    assert wait_all_closed([visitors.pop("home")], 1.0) == ["reset"]
    agents["home"].expect_exit(3)
    echo_all(list(visitors.values()), b"still here")

    since = agents["office"].mark()
    gateway.ctl("session", "kick", "alice/office")
    assert wait_all_closed([visitors.pop("office")], 1.0) == ["reset"]
    agents["office"].port_of("echo", since=since)
    echo_all(list(visitors.values()), b"still here")


def test_a_port_of_a_closed_session_can_be_taken_at_once(lab):
    gateway, echo = lab.gateway(), lab.echo()
    alice = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo)])
    port = alice.port_of("echo")
    visitors = lab.visits(port, 20)
    echo_all(visitors, b"hello")
    bobs = gateway.token_for("bob")
    gateway.ctl("user", "ban", "alice")
    wait_all_closed(visitors, 1.0)
    bob = lab.agent(gateway, bobs, [tcp("mine", echo, port=port, strict_port=True)])
    assert bob.port_of("mine", timeout=2.0) == port
    alice.expect_exit(3)
    assert not bob.events_of("tunnel.refuse")


def test_changes_made_while_the_gateway_is_stopped_hold_when_it_starts(lab):
    gateway, echo = lab.gateway(), lab.echo()
    tokens = {name: gateway.token_for(name) for name in ("anna", "bert", "cora", "dora", "emil")}
    agents = {name: lab.agent(gateway, token, [tcp("echo", echo)]) for name, token in tokens.items()}
    ports = {name: agent.port_of("echo") for name, agent in agents.items()}
    gateway.stop()
    marks = {name: agent.mark() for name, agent in agents.items()}
    gateway.ctl("user", "ban", "anna")
    gateway.ctl("token", "revoke", id_of(tokens["bert"]))
    gateway.ctl("user", "remove", "cora")
    gateway.ctl("user", "add", "fritz")
    gateway.ctl("user", "bind", "fritz", f"tcp/{ports['dora']}")
    gateway.start()
    for name, reason in (("anna", "banned"), ("bert", "revoked"), ("cora", "unknown_token")):
        agents[name].expect_exit(3)
        gateway.wait_event("auth.fail", reason=reason)
    assert agents["dora"].port_of("echo", since=marks["dora"]) != ports["dora"]
    assert agents["emil"].port_of("echo", since=marks["emil"]) == ports["emil"]
    assert round_trip(ports["emil"], b"undisturbed") == b"undisturbed"
