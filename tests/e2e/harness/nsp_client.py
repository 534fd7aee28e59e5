"""A scripted NSP client, as strict as the real one.

It takes a control message by one read and drops what it does not use, keeps one idle reverse connection per app, opens
the replacement before it connects the target, ends a tunnel at the first end of either side, and gives up the whole
session when an idle reverse connection ends. A thread per client moves the bytes; dialling happens on threads of its
own. Nothing is repeated by itself: a test logs in and sends heartbeats.
"""
import selectors
import socket
import ssl
import threading
import time

from . import nsp_wire as wire
from .process import matches
from .timing import scaled
from .visitors import abort

CHUNK = 256 * 1024
ROUNDS = 16  # pieces that one tunnel may move before the others have their turn
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Refused(Exception):
    """The one byte that answered a login, or none."""

    def __init__(self, answer):
        super().__init__(f"the login was answered with {answer!r}")
        self.answer = answer


class Half:
    """One direction of a tunnel: reads only when all that it has read is written."""

    def __init__(self, source, sink):
        self.source, self.sink, self.state, self._left = source, sink, "read", b""
        self.moved = 0

    def move(self):
        """Moves what it can. `state` is then what it waits for: "read", "write", "again", or "end"."""
        self.state = "again"
        for _ in range(ROUNDS):
            try:
                while self._left:
                    sent = self.sink.send(self._left)
                    self.moved += sent
                    self._left = self._left[sent:]
            except WOULD_BLOCK:
                self.state = "write"
                return
            try:
                data = self.source.recv(CHUNK)
            except WOULD_BLOCK:
                self.state = "read"
                return
            if not data:
                self.state = "end"
                return
            self._left = memoryview(data)


class Tunnel:
    """A reverse connection that carries a visitor, and the target's connection."""

    def __init__(self, app, transfer_id, reverse, target):
        self.app, self.id, self.reverse, self.target = app, transfer_id, reverse, target
        self.down, self.up = Half(reverse, target), Half(target, reverse)

    def advance(self):
        """Who has ended it, if somebody has: "visitor", "target" or "error"."""
        try:
            self.up.move()
            self.down.move()
        except OSError:
            return "error"
        if self.up.state == "end":
            return "target"
        return "visitor" if self.down.state == "end" else None

    def wanted(self, sock):
        reads, writes = (self.down, self.up) if sock is self.reverse else (self.up, self.down)
        return (selectors.EVENT_READ * (reads.state == "read")) | (selectors.EVENT_WRITE * (writes.state == "write"))

    @property
    def impatient(self):
        return "again" in (self.up.state, self.down.state)


class NspClient:
    """`apps`: for each app its target, or (target, App). `client_id` and `ports` are known after login().

    `events` tell what happened: login, idle (a reverse connection is there), keepalive, transfer, tunnel (it flows),
    tunnel_end, target_refused, illegal (a control byte that the client does not know), force_close, stopped,
    session_lost (an idle connection ended, the real client would start anew), attach_failed.
    """

    def __init__(self, gateway, token=None, apps=(), dialect="1.4", dialer=None, orderly=True, **dialer_options):
        self.gateway, self.token, self.dialect = gateway, token, wire.DIALECTS[dialect]
        self.dialer = dialer or wire.Dialer(gateway, **dialer_options)
        self.apps = [app if isinstance(app, tuple) else (app, wire.App()) for app in apps]
        self.orderly = orderly  # TLS connections end with a close_notify
        self.client_id, self.answer, self.events, self.problems = 0, [], [], []
        self._targets = {}  # by app id
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._calls, self._workers = [], []
        self._idle, self._tunnels, self._hungry = {}, {}, set()  # by socket; tunnels that have more to move
        self._life = 0  # sessions so far: what belongs to an earlier one is thrown away
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # For the tests

    @property
    def ports(self):
        return [port for _, port in self.answer]

    @property
    def port(self):
        return self.ports[0]

    def login(self, op=wire.NEW_APPS, client_id=None, apps=None, reverse=True, old_id=0):
        """Sends 02 or 03 and takes the answer; then a heartbeat and one reverse connection per app. Raises Refused."""
        if apps is not None:
            self.apps = [app if isinstance(app, tuple) else (app, wire.App()) for app in apps]
        if client_id is None:
            client_id = self.client_id if op == wire.RECONNECT or self.dialect.adds else 0
        request = self.dialect.request(op, self.token, [app for _, app in self.apps], client_id, old_id)
        answer = self.dialer.login(request)
        if len(answer) < 2:
            raise Refused(answer)
        self.client_id, assigned = wire.parse_answer(answer)
        assert len(assigned) == len(self.apps), f"{len(assigned)} apps for {len(self.apps)}"
        goes_on = self.dialect.adds and self.answer and assigned[0][0] == self.answer[-1][0] + 1
        self.answer = self.answer + assigned if goes_on else assigned
        self._targets |= {app_id: target for (app_id, _), (target, _) in zip(assigned, self.apps)}
        self._tell("login", id=self.client_id, apps=assigned)
        assert self.heartbeat(), "the first heartbeat is not acknowledged"
        if reverse:
            self.open_reverse()
        return self

    def open_reverse(self, app=None):
        """An idle reverse connection for the app (its id), or one for each app; they are idle when it returns."""
        for app_id in [app] if app else [app_id for app_id, _ in self.answer]:
            self._attach(app_id, self._life)

    def heartbeat(self):
        """Whether it was acknowledged."""
        answer = self.dialer.ask(wire.heartbeat(self.client_id))
        assert answer in (b"", wire.ACK), f"a heartbeat was answered with {answer!r}"
        return answer == wire.ACK

    def close_client(self, client_id=None):
        assert self.dialer.ask(wire.close_client(self.client_id if client_id is None else client_id)) == b""

    def disconnect(self, transfer_id):
        assert self.dialer.ask(wire.disconnect(transfer_id)) == b""

    @property
    def idle(self):
        """How many idle reverse connections it has."""
        return len(self._idle)

    def mark(self):
        return len(self.events)

    def events_of(self, event, since=0, **fields):
        return [e for e in self.events[since:] if matches(e, event, fields)]

    def wait_event(self, event, timeout=10.0, count=1, since=0, **fields):
        """Waits until it has happened `count` times, since a mark, and returns the last of them."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.events_of(event, since, **fields)) >= count, scaled(timeout))
            found = self.events_of(event, since, **fields)
        assert len(found) >= count, f"no {event} {fields or ''} within {scaled(timeout):g} s: {self.events[-20:]}"
        return found[count - 1]

    def drop_idle(self, app=None):
        """Ends its idle reverse connections, of one app or of all, and is content with that."""
        self._call(lambda: [self._end(sock) for sock, of in list(self._idle.items()) if app in (None, of)])

    def drop_all(self, reset=False):
        """Ends every connection; with `reset` as a crash would. The client can log in again."""
        self._call(lambda: self._end_all(reset))

    def close(self):
        if self._closing:
            return
        self._call(lambda: self._end_all(False))
        self._closing = True
        self._wake_write.send(b"!")
        self._thread.join(10)
        self._run_calls()
        for worker in self._workers:
            worker.join(scaled(25))
        self._end_all(False)
        self._selector.close()
        for sock in (self._wake_read, self._wake_write):
            sock.close()

    # Threads

    def _tell(self, event, **fields):
        with self._changed:
            self.events.append({"event": event, "at": time.monotonic()} | fields)
            self._changed.notify_all()

    def _call(self, function):
        """Runs function() on the client's thread and waits for it."""
        if self._closing or threading.current_thread() is self._thread:
            function()
            return
        done = threading.Event()
        self._calls.append((function, done))
        self._wake_write.send(b"!")
        assert done.wait(scaled(20)), "the client's thread hangs"

    def _work(self, function, *arguments):
        """Dials on a thread of its own: the bytes of the others go on."""
        def run():
            try:
                function(*arguments)
            except Exception as failure:  # shown by the lab
                if not self._closing and arguments[-1] == self._life:
                    self.problems.append(f"{function.__name__}: {failure!r}")
        worker = threading.Thread(target=run, daemon=True)
        self._workers = [w for w in self._workers if w.is_alive()] + [worker]
        worker.start()

    def _run(self):
        while not self._closing:
            for key, _ in self._selector.select(0 if self._hungry else None):
                if key.fileobj is self._wake_read:
                    self._on_wake()
                elif key.fileobj in self._idle:
                    self._on_control(key.fileobj)
                elif key.fileobj in self._tunnels:
                    self._advance(self._tunnels[key.fileobj])
            for tunnel in list(self._hungry):
                if tunnel in self._hungry:
                    self._advance(tunnel)

    def _on_wake(self):
        self._wake_read.recv(4096)
        self._run_calls()

    def _run_calls(self):
        while self._calls:
            function, done = self._calls.pop(0)
            try:
                function()
            finally:
                done.set()

    # Reverse connections

    def _attach(self, app, life):
        try:
            sock = self.dialer.attach(self.dialect.opening(self.token), self.client_id, app)
        except (OSError, AssertionError) as failure:
            if life == self._life and not self._closing:
                self._tell("attach_failed", app=app, why=repr(failure))
            return
        self._call(lambda: self._add_idle(sock, app, life))

    def _add_idle(self, sock, app, life):
        if life != self._life or self._closing:
            sock.close()
            return
        sock.setblocking(False)
        self._idle[sock] = app
        self._selector.register(sock, selectors.EVENT_READ)
        self._tell("idle", app=app)
        self._on_control(sock)

    def _on_control(self, sock):
        while sock in self._idle:
            try:
                message = self._read_control(sock)
            except OSError as failure:
                self._lose(sock, repr(failure))
                return
            if message is None:
                return
            if not message:
                self._lose(sock, "fin")
                return
            self._on_message(sock, message)

    def _read_control(self, sock):
        """Up to `control_read` bytes of what is there, as one read; None when nothing is."""
        message = b""
        while len(message) < self.dialect.control_read:
            try:
                part = sock.recv(self.dialect.control_read - len(message))
            except WOULD_BLOCK:
                return message or None
            if not part:
                break
            message += part
        return message

    def _on_message(self, sock, message):
        app, kind = self._idle[sock], message[0]
        used = 1 + self.dialect.transfer_id if kind == wire.TRANSFER else 1
        if len(message) != self.dialect.control_read or any(message[used:]):
            self.problems.append(f"a control message of {message.hex(' ')}")
        if kind == wire.TRANSFER:
            transfer_id = message[1:used]
            self._forget_idle(sock)
            self._tell("transfer", app=app, id=transfer_id, message=message)
            self._work(self._transfer, sock, app, transfer_id, self._life)
        elif kind == wire.KEEPALIVE and self.dialect.keepalive:
            self._tell("keepalive", app=app, message=message)
        elif kind == wire.FORCE_CLOSE and self.dialect.force_close:
            self._tell("force_close", app=app, message=message)
            client_id = self.client_id
            self._end_all(False)
            self._work(self._stop, client_id, self._life)
        else:
            self._tell("illegal", app=app, message=message)
            self._end(sock)

    def _lose(self, sock, why):
        """The real client gives up everything and comes back after three seconds."""
        app = self._idle[sock]
        self._end_all(False)
        self._tell("session_lost", app=app, why=why)

    def _stop(self, client_id, _life):
        assert self.dialer.ask(wire.close_client(client_id)) == b""
        self._tell("stopped")

    # Tunnels

    def _transfer(self, reverse, app, transfer_id, life):
        self._attach(app, life)
        target = self._targets[app]
        try:
            sock = socket.create_connection(("127.0.0.1", getattr(target, "port", target)), scaled(10))
        except OSError:
            self._tell("target_refused", app=app, id=transfer_id)
            self._call(lambda: self._close_socket(reverse))
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._call(lambda: self._add_tunnel(Tunnel(app, transfer_id, reverse, sock), life))

    def _add_tunnel(self, tunnel, life):
        if life != self._life or self._closing:
            tunnel.reverse.close()
            tunnel.target.close()
            return
        for sock in (tunnel.reverse, tunnel.target):
            self._tunnels[sock] = tunnel
            self._selector.register(sock, selectors.EVENT_READ)
        self._tell("tunnel", app=tunnel.app, id=tunnel.id)
        self._advance(tunnel)

    def _advance(self, tunnel):
        self._hungry.discard(tunnel)
        by = tunnel.advance()
        if by:
            self._end_tunnel(tunnel)
            self._tell("tunnel_end", app=tunnel.app, id=tunnel.id, by=by, down=tunnel.down.moved, up=tunnel.up.moved)
            if self.dialect.transfer_id:
                self._work(self._disconnect, tunnel.id, self._life)
            return
        for sock in (tunnel.reverse, tunnel.target):
            self._watch(sock, tunnel.wanted(sock))
        if tunnel.impatient:
            self._hungry.add(tunnel)

    def _watch(self, sock, wanted):
        key = self._selector.get_map().get(sock)
        if key is None and wanted:
            self._selector.register(sock, wanted)
        elif key is not None and not wanted:
            self._selector.unregister(sock)
        elif key is not None and key.events != wanted:
            self._selector.modify(sock, wanted)

    def _disconnect(self, transfer_id, _life):
        assert self.dialer.ask(wire.disconnect(transfer_id)) == b""
        self._tell("disconnected", id=transfer_id)

    # Ends

    def _end_tunnel(self, tunnel, reset=False):
        self._hungry.discard(tunnel)
        for sock in (tunnel.reverse, tunnel.target):
            self._watch(sock, 0)
            del self._tunnels[sock]
            self._close_socket(sock, reset)

    def _forget_idle(self, sock):
        self._selector.unregister(sock)
        del self._idle[sock]

    def _end(self, sock, reset=False):
        self._forget_idle(sock)
        self._close_socket(sock, reset)

    def _end_all(self, reset):
        self._life += 1
        for sock in list(self._idle):
            self._end(sock, reset)
        for tunnel in set(self._tunnels.values()):
            self._end_tunnel(tunnel, reset)

    def _close_socket(self, sock, reset=False):
        if reset:
            abort(sock)
            return
        if self.orderly and isinstance(sock, ssl.SSLSocket):
            try:
                sock.unwrap()
            except (OSError, ValueError):
                pass  # the close_notify is on its way, and nobody waits for the other one
        sock.close()
