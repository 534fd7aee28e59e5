"""A gateway in Python that speaks docs/protocol.md, or whatever a test wants it to say, to a real agent.

Nothing runs by itself: a test accepts each link and answers it step by step.
"""
import json
import socket
import ssl
import struct

from harness import scaled

CONTROL, OPEN, OPENED, DATA, FIN, RESET, CREDIT, PING, PONG, DATAGRAM = range(1, 11)
FIRST_WINDOW = 262144
LARGEST_PAYLOAD = 16376
WELCOME = {"type": "welcome", "version": 1, "features": [], "software": "fake", "session": 1, "user": "alice",
           "resumed": False, "heartbeat_seconds": 15, "dead_seconds": 45, "dial_seconds": 10, "stall_seconds": 600}


def frame(kind, stream=0, payload=b"", flags=0, length=None):
    """The bytes of a frame; `length` may lie about the payload's."""
    return struct.pack(">BBHI", kind, flags, len(payload) if length is None else length, stream) + payload


def control_frame(message):
    return frame(CONTROL, 0, message if isinstance(message, bytes) else json.dumps(message).encode())


def open_payload(tunnel, address="192.0.2.9", port=4711):
    return struct.pack(">IBH", tunnel, 4, port) + socket.inet_aton(address)


class FakeGateway:
    """Listens on 127.0.0.1. `certs` and `address` are what an agent of the tests wants to know."""

    def __init__(self, certs, crt=None, key=None, alpn=("postern/1",)):
        self.certs = certs
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(crt or certs.crt, key or certs.key)
        if alpn:
            self._context.set_alpn_protocols(list(alpn))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._links = []

    def accept_raw(self, timeout=15.0):
        """The next TCP connection."""
        self._listener.settimeout(scaled(timeout))
        sock, _ = self._listener.accept()
        sock.settimeout(scaled(10))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(sock)
        return sock

    def accept_tls(self, timeout=15.0):
        """The next TLS connection, before its hello."""
        sock = self._context.wrap_socket(self.accept_raw(timeout), server_side=True)
        self._links.append(sock)
        return Link(sock)

    def accept(self, timeout=15.0, **welcome):
        """The next link, welcomed; its hello is in `hello`."""
        link = self.accept_tls(timeout)
        link.hello = link.expect_control("hello")
        link.control(**WELCOME | welcome)
        return link

    def close(self):
        for sock in [*self._links, self._listener]:
            sock.close()


class Link:
    """One TLS connection. Pings are answered as long as the test reads."""

    def __init__(self, sock):
        self.sock, self.hello = sock, None

    def send(self, data):
        self.sock.sendall(data)

    def control(self, **message):
        self.send(control_frame(message))

    def open(self, stream, tunnel):
        self.send(frame(OPEN, stream, open_payload(tunnel)))

    def data(self, stream, payload):
        self.send(frame(DATA, stream, payload))

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise EOFError("the agent closed the link")
            data += part
        return data

    def receive(self):
        """(type, stream, payload) of the next frame that is no PING or PONG."""
        while True:
            kind, _, length, stream = struct.unpack(">BBHI", self._exactly(8))
            payload = self._exactly(length)
            if kind == PING:
                self.send(frame(PONG, 0, payload))
            elif kind != PONG:
                return kind, stream, payload

    def expect(self, kind, stream=0):
        """The payload of the next frame, which is of this type and stream. OPENED and CREDIT may come in between."""
        while True:
            got, on, payload = self.receive()
            if got in (OPENED, CREDIT) and got != kind:
                continue
            assert (got, on) == (kind, stream), f"frame {got} on {on:08x} ({payload!r}), not {kind} on {stream:08x}"
            return payload

    def expect_control(self, kind, **fields):
        message = json.loads(self.expect(CONTROL))
        assert message["type"] == kind, f"{message}, not {kind}"
        for key, value in fields.items():
            assert message[key] == value, f"{key} of {message}"
        return message

    def expect_reset(self, stream, reason):
        assert self.expect(RESET, stream) == bytes([reason])

    def expect_data(self, stream, wanted):
        got = b""
        while len(got) < len(wanted):
            got += self.expect(DATA, stream)
        assert got == wanted

    def expect_violation(self):
        """The agent says that the gateway broke the protocol, and leaves. What else is on its way may come before."""
        while True:
            kind, _, payload = self.receive()
            message = json.loads(payload) if kind == CONTROL else {}
            if message.get("type") == "end":
                assert message["reason"] == "protocol", message
                self.expect_close()
                return message["message"]

    def expect_close(self):
        """Reads on until the agent has closed the link."""
        try:
            while True:
                self.receive()
        except (EOFError, ssl.SSLEOFError, ConnectionResetError):
            pass

    def serve_tunnels(self, *names, port=20022):
        """Waits for the tunnels to be asked for and opens them all; their numbers by name."""
        numbers = {}
        while set(numbers) != set(names):
            asked = self.expect_control("tunnel_open")
            numbers[asked["name"]] = asked["tunnel"]
            self.control(type="tunnel_opened", tunnel=asked["tunnel"], port=port + len(numbers) - 1)
        return numbers

    def close(self):
        self.sock.close()
