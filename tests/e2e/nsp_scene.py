"""What the tests of the NSP protocol share: a gateway with users and their targets, and ways to ask it many things."""
import concurrent.futures
import contextlib
import threading

from harness import Dialer, echo_all, fd_count, how_visit_ends, open_many, scaled, wait_until
from harness.nsp_wire import DIALECTS, App, heartbeat

__all__ = ["Pulse", "Scene", "cuts", "expect_no_event", "expect_unharmed", "expect_unserved", "in_parallel", "quiet"]


class Scene:
    """A gateway, an echo, and for each user the id and a token. `wire` has the messages of the gateway's dialect."""

    def __init__(self, lab, users=("alice",), dialect="1.4", **gateway_options):
        nsp = gateway_options.pop("nsp", {}) | {"dialect": dialect}
        self.lab, self.dialect, self.wire = lab, dialect, DIALECTS[dialect]
        self.gateway = lab.gateway(nsp=nsp, **gateway_options)
        self.echo = lab.echo()
        self.ids = {user: self.gateway.add_user(user) for user in users}
        self.tokens = {user: self.gateway.create_token(user) for user in users}

    def dialer(self, **options):
        return Dialer(self.gateway, **options)

    def client(self, user="alice", apps=None, **options):
        """A scripted client with one app, the echo, unless told otherwise."""
        options = {"dialect": self.dialect} | options
        return self.lab.nsp_client(self.gateway, self.tokens[user], apps or [self.echo], **options)

    def request(self, op, apps=(App(),), user="alice", token=None, client_id=0):
        token = self.tokens[user] if token is None else token
        return self.wire.request(op, token, list(apps), client_id)

    def opening(self, user="alice"):
        return self.wire.opening(self.tokens[user])

    @contextlib.contextmanager
    def no_descriptor_lost(self):
        """Around what must leave nothing behind in the gateway."""
        self.dialer(plaintext="plaintext" in self.gateway.config["nsp"]).ask(heartbeat(0))
        resting = fd_count(self.gateway.pid)
        yield
        wait_until(lambda: fd_count(self.gateway.pid) <= resting, 10, "the gateway's descriptors are as before")

    def sessions_of(self, user):
        return [session for session in self.gateway.sessions() if session["user"] == user]


class Pulse:
    """Sends a client's heartbeats on a thread of its own; `acks` has whether each was acknowledged."""

    def __init__(self, client, seconds=5.0):
        self.acks, self._over, self._client, self._seconds = [], threading.Event(), client, seconds
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._over.wait(self._seconds):
            self.acks.append(self._client.heartbeat())

    def stop(self):
        self._over.set()
        self._thread.join(scaled(20))


def in_parallel(function, items, threads=16):
    """[function(item), ...], many at a time."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def cuts(request, head, samples=12):
    """Where to cut a request short: anywhere in its head, and at some places further on."""
    step = max(1, (len(request) - head) // samples)
    return sorted({*range(min(head, len(request))), *range(head, len(request), step), len(request) - 1})


def expect_no_event(program, event, seconds, **fields):
    """Asserts that what must not happen does not happen, for so long on any build: the gateway's times are the same."""
    since = program.mark()
    try:
        happened = program.wait_event(event, timeout=seconds / scaled(1), since=since, **fields)
    except AssertionError as error:
        assert "within" in str(error), error
    else:
        raise AssertionError(f"it has happened: {happened}")


def quiet(sock, seconds):
    """Waits while nothing comes; asserts that."""
    sock.settimeout(seconds)
    try:
        data = sock.recv(64)
    except TimeoutError:
        sock.settimeout(scaled(20))
        return
    raise AssertionError(f"came instead of silence: {data!r}")


def expect_unharmed(client, visitors=3):
    """Its session was never lost, and visitors are served now."""
    crowd = open_many(client.port, visitors)
    echo_all(crowd, b"anybody there?")
    for visitor in crowd:
        visitor.close()
    lost = [e for e in client.events if e["event"] in ("session_lost", "illegal", "attach_failed", "force_close")]
    assert not lost, lost


def expect_unserved(port):
    """The port is closed, or visitors are reset."""
    try:
        assert how_visit_ends(port) == "reset"
    except ConnectionRefusedError:
        pass
