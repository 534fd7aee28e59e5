"""kill -9 of the gateway in the middle of writes: the store opens, and what was acknowledged is there."""
import random
import threading

from harness import wait_until
from trunk_peer import ScriptedAgent

ROUNDS = 20


class Writers:
    """Threads that write through posternctl and through logins, and note what was acknowledged."""

    def __init__(self, gateway, login_token, round_number):
        self.gateway, self.login_token, self.round = gateway, login_token, round_number
        self.users, self.tokens, self.bans, self.ports = {}, {}, set(), {}
        self.acknowledged, self.failures = 0, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(work, index), daemon=True)
                         for index, work in enumerate((self._users, self._users, self._tunnels))]
        for thread in self._threads:
            thread.start()

    def _run(self, work, index):
        count = 0
        while not self._stop.is_set():
            try:
                work(f"r{self.round}-{index}-{count}")
            except Exception as error:  # noqa: BLE001: the thread's failure is the test's
                self.failures.append(error)
                return
            count += 1

    def _users(self, name):
        self.users[name] = self.gateway.add_user(name)
        self.acknowledged += 1
        self.tokens[name] = self.gateway.create_token(name).split("_")[1]
        self.acknowledged += 1
        self.gateway.ctl("user", "ban", name)
        self.bans.add(name)
        self.acknowledged += 1

    def _tunnels(self, name):
        """A login and a tunnel, whose port is promised to this instance once it is open."""
        try:
            agent = ScriptedAgent.login(self.gateway, self.login_token, instance=name)
            self.ports[name] = agent.open_tunnel("t")
            self.acknowledged += 1
            agent.control({"type": "end", "reason": "stop"})
            agent.expect_close()
        except (OSError, EOFError):
            self._stop.wait(0.01)  # the gateway is gone; posternctl's writers go on

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.failures, self.failures


def test_what_was_acknowledged_survives_kill_9(lab):
    rng = random.Random(4711)
    gateway = lab.gateway(ports=300)
    login_token = gateway.token_for("login")
    gateway.ctl("user", "limit", "login", "--instances", "1000")
    ids = {"login": 1}
    for number in range(ROUNDS):
        writers = Writers(gateway, login_token, number)
        enough = rng.randint(1, 12)
        wait_until(lambda: writers.acknowledged >= enough or writers.failures, 20, "acknowledged writes")
        gateway.kill9()
        writers.stop()
        gateway.start()
        shown = {user["name"]: user for user in gateway.ctl("user", "list", json=True)}
        assert {name: user["id"] for name, user in shown.items()} == ids | writers.users
        ids |= writers.users
        assert all(shown[name]["banned"] for name in writers.bans)
        for name, token in writers.tokens.items():
            assert [row["id"] for row in gateway.tokens(name)] == [token]
        added = [row["user"] for row in gateway.ctl("audit", json=True) if row["action"] == "user.add"]
        assert sorted(added) == sorted(ids)
        for name, port in writers.ports.items():
            agent = ScriptedAgent.login(gateway, login_token, instance=name)
            assert agent.open_tunnel("t") == port, "another port than before the crash"
            agent.close()
    assert sorted(ids.values()) == list(range(1, len(ids) + 1))
