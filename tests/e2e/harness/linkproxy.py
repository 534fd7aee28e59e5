"""A TCP proxy to put between an agent and its gateway, to cut, to freeze or to slow the link in the middle."""
import selectors
import socket
import time

from .targets import CHUNK, Connection, Target


TURN = 0.002  # seconds between two looks at the rate
SMALL = 65536


class LinkProxy(Target):
    """Forwards 127.0.0.1:`port` to another port of 127.0.0.1, half-close and resets included."""

    def __init__(self, upstream_port):
        self._upstream_port = upstream_port
        self._flowing = self._serving = True
        self._rate = None
        super().__init__()

    def cut(self, serve_again=True):
        """Ends every link with a RST on both sides; with serve_again=False new ones too, until mend()."""
        def now():
            self._serving = serve_again
            for connection in list(self._connections):
                self._drop(connection, reset=True)
        self.call(now)

    def mend(self):
        self._serving = True

    def freeze(self):
        """From now on nothing passes and nothing ends, as when a cable is pulled."""
        self._set_flowing(False)

    def thaw(self):
        self._set_flowing(True)

    def limit(self, bytes_per_second):
        """Each direction of each link passes no more than that. To be called before the links are made: it keeps the
        kernel's buffers small, so that what waits does so at the sender's."""
        self._rate = bytes_per_second
        self.call(lambda: None)

    def _run(self):
        filled = time.monotonic()
        while not self._stopping:
            for key, mask in self._selector.select(None if self._rate is None else TURN):
                key.data(key.fileobj, mask)
            if self._rate is None:
                continue
            now = time.monotonic()
            for connection in list(self._connections):
                connection.allowed = min(connection.allowed + self._rate * (now - filled), self._rate * 4 * TURN)
                self._advance(connection)
            filled = now

    def _set_flowing(self, flowing):
        def now():
            if flowing == self._flowing:
                return
            self._flowing = flowing
            if flowing:
                self._selector.register(self._listener, selectors.EVENT_READ, self._on_listener)
            else:
                self._selector.unregister(self._listener)  # the kernel alone accepts new links now
            for connection in list(self._connections):
                self._advance(connection)
        self.call(now)

    # Target's hooks

    def on_accept(self, connection):
        connection.peer = None
        far = self._dial() if self._serving else None
        if not far:
            self._drop(connection, reset=True)
            return
        connection.peer, far.peer = far, connection
        for side in (connection, far):
            side.allowed = 0
            if self._rate is not None:
                side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self._connections.add(far)
        self.stats.open += 1
        self._advance(far)

    def _dial(self):
        try:
            sock = socket.create_connection(("127.0.0.1", self._upstream_port), 5)
        except OSError:
            return None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(sock)

    def on_data(self, connection, data):
        connection.allowed -= len(data)
        connection.peer.out += data

    def on_fin(self, connection):
        connection.peer.finishing = True

    def may_read(self, connection):
        return len(connection.peer.out) < CHUNK and (self._rate is None or connection.allowed > 0)

    def _on_ready(self, connection, mask):
        super()._on_ready(connection, mask)
        if connection.peer:
            self._advance(connection.peer)
            self._advance(connection)  # it may read again once its peer has sent

    def _advance(self, connection):
        if self._flowing:
            super()._advance(connection)
        elif connection in self._connections:
            self._watch(connection, 0)

    def _drop(self, connection, reset=False, failed=False):
        super()._drop(connection, reset, failed)
        if (reset or failed) and connection.peer:
            super()._drop(connection.peer, reset=True)
