"""The services behind the agents: each is a server on 127.0.0.1 with one thread and a selector."""
import collections
import hashlib
import selectors
import socket
import struct
import threading
import types

CHUNK = 256 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection:
    """A connection that a target serves. `out` is still to be sent, then a FIN when `finishing`."""

    def __init__(self, sock):
        self.sock, self.out = sock, bytearray()
        self.reading = True
        self.finishing = self.finished = self.got_fin = False


class Target:
    """The base of the targets. `stats` counts; `address` is what an agent dials."""

    def __init__(self, port=0, backlog=4096):
        self.stats = types.SimpleNamespace(accepted=0, open=0, bytes_in=0, bytes_out=0, fins=0, resets=0)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=backlog)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_listener)
        self._calls = collections.deque()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        self._connections = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # What a target does; called on its thread

    def on_accept(self, connection):
        pass

    def on_data(self, connection, data):
        pass

    def on_fin(self, connection):
        connection.finishing = True

    def refill(self, connection):
        """Called when `out` is empty: may put more into it."""

    def may_read(self, connection):
        """A target that cannot get rid of its answer stops reading."""
        return len(connection.out) < 4 * CHUNK

    # For the tests

    def call(self, function):
        """Runs function() on the target's thread and waits for it."""
        done = threading.Event()
        self._calls.append((function, done))
        self._wake_write.send(b"!")
        assert done.wait(10), "the target's thread hangs"

    def reset_all(self):
        """Ends every connection with a RST."""
        self.call(lambda: [self._drop(c, reset=True) for c in list(self._connections)])

    def close(self):
        if self._stopping:
            return
        self._stopping = True
        self._wake_write.send(b"!")
        self._thread.join(10)
        for connection in list(self._connections):
            connection.sock.close()
        for sock in (self._listener, self._wake_read, self._wake_write):
            sock.close()
        self._selector.close()

    # The thread

    def _run(self):
        while not self._stopping:
            for key, mask in self._selector.select():
                key.data(key.fileobj, mask)

    def _on_wake(self, sock, _mask):
        sock.recv(4096)
        while self._calls:
            function, done = self._calls.popleft()
            function()
            done.set()

    def _on_listener(self, listener, _mask):
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock)
            self._connections.add(connection)
            self.stats.accepted += 1
            self.stats.open += 1
            self.on_accept(connection)
            self._advance(connection)

    def _on_ready(self, connection, mask):
        try:
            if mask & selectors.EVENT_READ and connection.reading and not connection.got_fin:
                self._read(connection)
        except OSError:
            self._drop(connection, failed=True)
        else:
            self._advance(connection)

    def _read(self, connection):
        data = connection.sock.recv(CHUNK)
        if data:
            self.stats.bytes_in += len(data)
            self.on_data(connection, data)
        else:
            self.stats.fins += 1
            connection.got_fin = True
            self.on_fin(connection)

    def _advance(self, connection):
        """Sends what it can, then asks the selector for what the connection waits for."""
        if connection not in self._connections:
            return
        try:
            self._write(connection)
        except OSError:
            self._drop(connection, failed=True)
            return
        if connection.finished and connection.got_fin:
            self._drop(connection)
            return
        wanted = selectors.EVENT_WRITE if connection.out else 0
        if connection.reading and not connection.got_fin and self.may_read(connection):
            wanted |= selectors.EVENT_READ
        self._watch(connection, wanted)

    def _write(self, connection):
        while True:
            if not connection.out and not connection.finishing:
                self.refill(connection)
            if not connection.out:
                break
            try:
                with memoryview(connection.out) as view:
                    sent = connection.sock.send(view[:CHUNK])
            except BlockingIOError:
                return
            del connection.out[:sent]
            self.stats.bytes_out += sent
        if connection.finishing and not connection.finished:
            connection.finished = True
            connection.sock.shutdown(socket.SHUT_WR)

    def _watch(self, connection, wanted):
        key = self._selector.get_map().get(connection.sock)
        handler = lambda _sock, mask: self._on_ready(connection, mask)  # noqa: E731
        if key is None and wanted:
            self._selector.register(connection.sock, wanted, handler)
        elif key is not None and not wanted:
            self._selector.unregister(connection.sock)
        elif key is not None and key.events != wanted:
            self._selector.modify(connection.sock, wanted, handler)

    def _drop(self, connection, reset=False, failed=False):
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._watch(connection, 0)
        if reset:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.sock.close()
        self.stats.open -= 1
        self.stats.resets += failed


class Echo(Target):
    """Sends back what it gets, and a FIN after a FIN once everything is sent."""

    def on_data(self, connection, data):
        connection.out += data


class Sink(Target):
    """Never reads, until drain()."""

    def on_accept(self, connection):
        connection.reading = False

    def drain(self):
        """From now on reads and throws away; ends each connection after its FIN."""
        self.on_accept = lambda connection: None

        def begin():
            for connection in list(self._connections):
                connection.reading = True
                self._advance(connection)
        self.call(begin)


class Discard(Target):
    """Reads everything; `digests` has the SHA-256 of each connection that ended with a FIN."""

    def __init__(self, **options):
        self.digests = []
        super().__init__(**options)

    def on_accept(self, connection):
        connection.hash = hashlib.sha256()

    def on_data(self, connection, data):
        connection.hash.update(data)

    def on_fin(self, connection):
        self.digests.append(connection.hash.hexdigest())
        super().on_fin(connection)


class Source(Target):
    """Speaks first: sends `data`, over and over until `total` bytes, then a FIN unless `then_fin` is false."""

    def __init__(self, data=b"hello\n", total=None, then_fin=True, **options):
        self._data, self._then_fin = data, then_fin
        self._total = len(data) if total is None else total
        super().__init__(**options)

    def on_accept(self, connection):
        connection.left = self._total

    def refill(self, connection):
        part = self._data[:connection.left]
        connection.out += part
        connection.left -= len(part)
        if connection.left == 0 and self._then_fin:
            connection.finishing = True


class Reset(Target):
    """Ends each connection with a RST: at once, or on the first data with `on_first_data`."""

    def __init__(self, on_first_data=False, **options):
        self._wait = on_first_data
        super().__init__(**options)

    def on_accept(self, connection):
        if not self._wait:
            self._drop(connection, reset=True)

    def on_data(self, connection, data):
        self._drop(connection, reset=True)


class RefusedPort:
    """A port where nothing listens and nothing else can: connecting is refused."""

    def __init__(self):
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def close(self):
        self._sock.close()


class Blackhole:
    """A port where connecting hangs: the queue of a listener that never accepts is full."""

    def __init__(self):
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._fillers = []
        while self._fits_one_more():
            assert len(self._fillers) < 64, "the listener's queue does not fill up"

    def _fits_one_more(self):
        sock = socket.socket()
        sock.settimeout(0.2)
        self._fillers.append(sock)
        try:
            sock.connect(("127.0.0.1", self.port))
        except TimeoutError:
            return False
        return True

    def close(self):
        for sock in [*self._fillers, self._listener]:
            sock.close()
