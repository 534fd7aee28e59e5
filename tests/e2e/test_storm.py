"""Everything at once on several workers: for the sanitizers, and for what only a crowd brings to light."""
import itertools
import threading
import time

import pytest

from harness import abort, connect, random_payload, recv_exact, round_trip, scaled, tcp, wait_until
from harness.certs import make

USERS, INSTANCES, ROUNDS = ("alice", "bob", "carol"), ("a", "b"), 8
PAYLOAD = random_payload(200_000)


class Visitors(threading.Thread):
    """One visitor after the other until stopped: round trips, aborts, and some who leave without a word."""

    def __init__(self, ports, seed):
        super().__init__(daemon=True)
        self._ports = ports
        self._kinds = itertools.islice(itertools.cycle((self.whole, self.whole, self.aborted, self.silent)), seed, None)
        self._over = threading.Event()
        self.served, self.failures = 0, []
        self.start()

    def run(self):
        for port in itertools.cycle(self._ports):
            if self._over.is_set():
                return
            try:
                next(self._kinds)(port)
            except OSError:
                self._over.wait(0.01)  # refused or reset: the session is away, and the port perhaps
            except AssertionError as error:
                self.failures.append(str(error))

    def whole(self, port):
        with connect(port) as sock:
            sock.sendall(PAYLOAD)
            assert recv_exact(sock, len(PAYLOAD)) == PAYLOAD, "an echo differs"
            self.served += 1

    def aborted(self, port):
        sock = connect(port)
        sock.sendall(PAYLOAD)
        abort(sock)

    def silent(self, port):
        connect(port).close()

    def stop(self):
        self._over.set()
        self.join(scaled(30))
        assert not self.is_alive(), "a visitor hangs"


@pytest.mark.tsan
def test_agents_visitors_bans_and_reloads_at_once(lab, certs, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    for name in ("ca.crt", "ca.key"):
        (served / name).write_bytes((certs.ca.parent / name).read_bytes())
    make(served, "localhost", "127.0.0.1")
    gateway = lab.gateway(workers=4, limits={"buffer_mib": 8},
                          tls={"certificate": str(served / "gateway.crt"), "key": str(served / "gateway.key")})
    echo = lab.echo()
    tokens = {user: gateway.token_for(user) for user in USERS}
    agents = {(user, instance): lab.agent(gateway, tokens[user], [tcp("one", echo), tcp("two", echo)], instance=instance)
              for user in USERS for instance in INSTANCES}
    ports = {key: [agent.port_of(tunnel) for tunnel in ("one", "two")] for key, agent in agents.items()}
    everywhere = [port for both in ports.values() for port in both]
    visitors = [Visitors(everywhere[at:] + everywhere[:at], at) for at in range(4)]
    gateway.wait_event("visitor.close", count=20)

    for round_ in range(ROUNDS):
        gateway.ctl("user", "ban", "alice", "--for", "1s")
        gateway.ctl("session", "kick", "bob/a", check=False)  # it may be on its way back
        make(served, "localhost", "127.0.0.1")
        gateway.reload(limits={"handshake_seconds": 5 + round_, "buffer_mib": 8 + round_}, log={"level": "info"})
        gateway.ctl("user", "limit", "bob", "--connections", str(100 + round_))
        agents["carol", "a"].restart()  # a takeover where the older session still lingers
        gateway.ctl("token", "create", "carol", "--label", f"round {round_}")
        gateway.ctl("user", "bind", "bob", f"tcp/{ports['bob', 'b'][round_ % 2]}")
        gateway.ctl("user", "unbind", "bob", f"tcp/{ports['bob', 'b'][round_ % 2]}")
        gateway.sighup()
        assert len(gateway.sessions()) <= 6
        assert gateway.ctl("status", json=True)["workers"] == 4

    def all_are_back():
        return all(len([s for s in gateway.sessions() if (s["user"], s["instance"]) == key and s["tunnels"] == 2]) == 1
                   for key in agents)
    wait_until(all_are_back, 30, "each agent is back", interval=0.2)
    before = [crowd.served for crowd in visitors]
    wait_until(lambda: all(crowd.served > was for crowd, was in zip(visitors, before)), 20, "visitors are served")
    for crowd in visitors:
        crowd.stop()
        assert not crowd.failures, crowd.failures
    wait_until(lambda: gateway.ctl("status", json=True)["visitors"] == 0, 10, "no visitor is left", interval=0.1)
    for (user, _), both in ports.items():
        for port in both:  # each on the port that it had
            assert round_trip(port, PAYLOAD) == PAYLOAD
            gateway.wait_event("visitor.close", user=user, port=port, reason="closed")
    assert gateway.ctl("status", json=True)["buffered_bytes"] == 0


@pytest.mark.tsan
def test_a_stop_in_the_middle_of_it(lab):
    """The workers, the door and the store thread end while all of them have work."""
    gateway, echo = lab.gateway(workers=4), lab.echo()
    tokens = {user: gateway.token_for(user) for user in USERS}
    agents = [lab.agent(gateway, tokens[user], [tcp("one", echo)], instance=instance)
              for user in USERS for instance in INSTANCES]
    ports = [agent.port_of("one") for agent in agents]
    visitors = [Visitors(ports, at) for at in range(3)]
    for _ in range(2):
        gateway.wait_event("visitor.close", count=20)
        marks = [agent.mark() for agent in agents]
        gateway.ctl("session", "kick", "alice", check=False)
        began = time.monotonic()
        gateway.stop()
        assert time.monotonic() - began < scaled(2)
        gateway.start()
        for agent, mark in zip(agents, marks):
            agent.wait_event("tunnel.open", since=mark)
    for crowd in visitors:
        crowd.stop()
        assert not crowd.failures, crowd.failures
