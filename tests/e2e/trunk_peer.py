"""An agent in Python that speaks docs/protocol.md, or breaks it, to a real gateway.

Nothing runs by itself: a test logs in and takes and sends frames step by step. While it reads, PINGs are answered and
credit is counted.
"""
import collections
import json
import secrets
import socket
import ssl
import struct

import pytest

from fakegateway import (CONTROL, CREDIT, DATA, DATAGRAM, FIN, FIRST_WINDOW, LARGEST_PAYLOAD, OPEN, OPENED, PING, PONG,
                         RESET, control_frame, frame)
from harness import scaled

__all__ = ["CONTROL", "CREDIT", "DATA", "DATAGRAM", "FIN", "FIRST_WINDOW", "LARGEST_PAYLOAD", "LARGEST_WINDOW", "OPEN",
           "OPENED", "PING", "PONG", "RESET", "Frame", "ScriptedAgent", "control_frame", "frame", "hello", "scripted",
           "stream_id"]

LARGEST_WINDOW = 16777216
HEADER = struct.Struct(">BBHI")
Frame = collections.namedtuple("Frame", "kind flags stream payload")


def stream_id(slot, generation):
    return generation << 16 | slot


def hello(token, /, **changes):
    """The first message of an agent; a change to None leaves the key out."""
    message = {"type": "hello", "version": 1, "features": [], "software": "scripted", "token": token,
               "instance": "default", "run": secrets.token_hex(16), "previous": "none"} | changes
    return {key: value for key, value in message.items() if value is not None}


class ScriptedAgent:
    """One link. `credit` has what the gateway granted per stream, `pings` its PINGs."""

    def __init__(self, gateway, context=None, receive_buffer=None, session=None):
        self.answer_pings, self.welcome = True, None
        self.credit = collections.Counter()
        self.pings = []
        self._buffer = bytearray()
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(scaled(10))
        raw.connect(("127.0.0.1", gateway.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = context or gateway.certs.client_context()
        self.sock = context.wrap_socket(raw, server_hostname="localhost", session=session)

    @classmethod
    def login(cls, gateway, token, run=None, previous="none", instance="default", **options):
        """A link that was welcomed; `welcome` has the answer."""
        agent = cls(gateway, **options)
        agent.run = run or secrets.token_hex(16)
        agent.control(hello(token, run=agent.run, previous=previous, instance=instance))
        agent.welcome = agent.expect_control("welcome")
        return agent

    # Sending

    def send(self, data):
        self.sock.sendall(data)

    def send_in_bytes(self, data):
        """Each byte in a TLS record of its own."""
        for at in range(len(data)):
            self.sock.sendall(data[at:at + 1])

    def send_until_closed(self, data, times=1):
        """For floods: stops when the gateway takes no more."""
        try:
            for _ in range(times):
                self.sock.sendall(data)
        except (OSError, ssl.SSLError):
            pass

    def control(self, message):
        self.send(control_frame(message))

    def frame(self, kind, stream=0, payload=b"", **options):
        self.send(frame(kind, stream, payload, **options))

    def data(self, stream, payload):
        """Bytes within the credit, which the test sees to."""
        for at in range(0, len(payload), LARGEST_PAYLOAD):
            self.frame(DATA, stream, payload[at:at + LARGEST_PAYLOAD])

    def grant(self, stream, count):
        self.frame(CREDIT, stream, struct.pack(">I", count))

    def reset(self, stream, reason=1):
        self.frame(RESET, stream, bytes([reason]))

    # Receiving

    def receive(self):
        """The next frame, whatever it is. EOFError when the gateway has closed."""
        while True:
            if len(self._buffer) >= HEADER.size:
                kind, flags, length, stream = HEADER.unpack_from(self._buffer)
                if len(self._buffer) >= HEADER.size + length:
                    payload = bytes(self._buffer[HEADER.size:HEADER.size + length])
                    del self._buffer[:HEADER.size + length]
                    return Frame(kind, flags, stream, payload)
            try:
                part = self.sock.recv(65536)
            except (ssl.SSLEOFError, ConnectionResetError) as error:
                raise EOFError("the gateway closed the link") from error
            if not part:
                raise EOFError("the gateway closed the link")
            self._buffer += part

    def next(self):
        """The next frame that is no PING, PONG or CREDIT."""
        while True:
            got = self.receive()
            if got.kind == PING:
                self.pings.append(got.payload)
                if self.answer_pings:
                    self.frame(PONG, 0, got.payload)
            elif got.kind == CREDIT:
                self.credit[got.stream] += int.from_bytes(got.payload, "big")
            elif got.kind != PONG:
                return got

    def expect(self, kind, stream=None):
        got = self.next()
        assert got.kind == kind and stream in (None, got.stream), f"{got}, not {kind} on {stream}"
        return got

    def expect_control(self, kind, **fields):
        message = json.loads(self.expect(CONTROL, 0).payload)
        wanted = {"type": kind} | fields
        assert message | wanted == message, f"{message}, not {wanted}"
        return message

    def expect_stream(self):
        """The id of the stream that a visitor opens."""
        return self.expect(OPEN).stream

    def expect_data(self, stream, wanted):
        got = b""
        while len(got) < len(wanted):
            got += self.expect(DATA, stream).payload
        assert got == wanted

    def expect_reset(self, stream, reason=None):
        got = self.expect(RESET, stream).payload[0]
        assert reason in (None, got), f"reset for reason {got}, not {reason}"

    def expect_end(self, reason):
        """Reads on until the gateway's end, then until it has closed; returns the end's message."""
        while True:
            got = self.next()
            message = json.loads(got.payload) if got.kind == CONTROL else {}
            if message.get("type") == "end":
                break
        assert message["reason"] == reason, message
        self.expect_close()
        return message

    def expect_close(self):
        """Reads on until the gateway has closed, and closes too."""
        try:
            while True:
                self.next()
        except (EOFError, BrokenPipeError, ssl.SSLError):
            self.close()

    def receive_pong(self):
        while True:
            got = self.receive()
            if got.kind == PONG:
                return got.payload

    def expect_alive(self):
        """The gateway answers a PING; other frames that come before are lost."""
        probe = secrets.token_bytes(8)
        self.frame(PING, 0, probe)
        while self.receive_pong() != probe:
            pass

    # Tunnels

    def ask_tunnel(self, name="t", number=1, **changes):
        self.control({"type": "tunnel_open", "tunnel": number, "name": name, "protocol": "tcp", "port": 0,
                      "strict_port": False} | changes)

    def open_tunnel(self, name="t", number=1, **changes):
        """The public port."""
        self.ask_tunnel(name, number, **changes)
        return self.expect_control("tunnel_opened", tunnel=number)["port"]

    def close(self):
        self.sock.close()


@pytest.fixture
def scripted(lab):
    """Makes ScriptedAgents, logged in unless login=False, and closes them before the gateways stop."""
    made = []

    def make(gateway, token=None, login=True, **options):
        agent = ScriptedAgent.login(gateway, token, **options) if login else ScriptedAgent(gateway, **options)
        made.append(agent)
        return agent
    yield make
    for agent in made:
        agent.close()
