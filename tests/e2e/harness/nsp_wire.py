"""The NSP protocol from the client's side: its dialects, its messages, and the connections that carry them.

A Dialer stands for the TLS proxy in front of a client (stunnel, openssl s_client): it keeps the session tickets, so
that the connections of one client belong together.
"""
import collections
import copy
import select
import socket
import ssl
import struct
import time

from .timing import scaled

HEARTBEAT, NEW_APPS, RECONNECT, CLOSE_CLIENT, DISCONNECT = 1, 2, 3, 4, 5
TCP, HTTP, UDP = 0, 1, 4
TRANSFER, KEEPALIVE, FORCE_CLOSE = 1, 3, 6
ACK, AUTH_OK, AUTH_FAILED = b"\1", b"\1", b"\0"
ERROR_OTHER, ERROR_AUTH, ERROR_BANNED = b"\0", b"\3", b"\4"
ANSWER_READ = 1024  # what a client reads of the config answer, at once

App = collections.namedtuple("App", "port protocol compress host description", defaults=(0, TCP, 0, "", ""))


class Dialect(collections.namedtuple("Dialect", "name record token old_id reverse_auth adds control_read "
                                                "transfer_id keepalive force_close")):
    """What a version of the client does. `record` names the fields of an app, each with its size; `control_read` is
    the most that it reads of a control message at once, where what it does not use is lost."""

    def app(self, app):
        fields = {"port": struct.pack(">H", app.port), "protocol": bytes([app.protocol]),
                  "compress": bytes([app.compress]), "host": app.host.encode(), "description": app.description.encode()}
        return b"".join(fields[name].ljust(size, b"\0") for name, size in self.record)

    def request(self, op, token, apps, client_id=0, old_id=0):
        """02 or 03."""
        first = struct.pack(">H", old_id) if self.old_id and op == RECONNECT else b""
        secret = struct.pack(">H", len(token)) + token.encode() if self.token else b""
        return bytes([op]) + first + secret + struct.pack(">HB", client_id, len(apps)) + b"".join(map(self.app, apps))

    def opening(self, token):
        """What comes before the ids on a reverse connection."""
        return b"\xf9" + struct.pack(">H", len(token)) + token.encode() if self.reverse_auth else b""

    def transfer(self, transfer_id=bytes(4)):
        """The whole message as the gateway has to send it."""
        return (b"\1" + transfer_id[:self.transfer_id]).ljust(self.control_read, b"\0")


PORT, PROTOCOL, COMPRESS, HOST, DESCRIPTION = (("port", 2), ("protocol", 1), ("compress", 1), ("host", 1024),
                                               ("description", 96))
DIALECTS = {d.name: d for d in (
    Dialect("0.4", (PORT,), False, True, False, True, 1, 0, False, False),
    Dialect("0.8", (PORT,), True, False, True, False, 1, 0, False, False),
    Dialect("hosts", (PORT, PROTOCOL, HOST), True, False, True, False, 1, 0, False, False),
    Dialect("1.0", (PORT, PROTOCOL, HOST, DESCRIPTION), True, False, True, False, 1, 0, False, False),
    Dialect("1.2", (PORT, PROTOCOL, COMPRESS, HOST, DESCRIPTION), True, False, True, False, 1, 0, True, False),
    Dialect("1.4", (PORT, PROTOCOL, COMPRESS, HOST, DESCRIPTION), True, False, True, False, 10, 4, True, True),
)}


def heartbeat(client_id):
    return struct.pack(">BH", HEARTBEAT, client_id)


def close_client(client_id):
    return struct.pack(">BH", CLOSE_CLIENT, client_id)


def disconnect(transfer_id):
    return bytes([DISCONNECT]) + transfer_id


def ids(client_id, app_id):
    return struct.pack(">HB", client_id, app_id)


def parse_answer(answer):
    """(client id, [(app id, port), ...]) of a config answer."""
    assert len(answer) >= 2 and len(answer) % 3 == 2, f"no config answer: {answer.hex(' ')}"
    return int.from_bytes(answer[:2], "big"), [struct.unpack_from(">BH", answer, at) for at in range(2, len(answer), 3)]


class Dialer:
    """Makes a client's connections. `resume` keeps TLS sessions; `source` is the address that it dials from;
    `certificate` is the (crt, key) of a client certificate."""

    def __init__(self, gateway, plaintext=False, resume=True, alpn=("nsp/1",), source=None, certificate=None,
                 version=None):
        self.gateway, self.plaintext, self.resume, self.session = gateway, plaintext, resume, None
        self._source = (source, 0) if source else None
        if plaintext:
            return
        self.context = ssl.create_default_context(cafile=str(gateway.certs.ca))
        if alpn:
            self.context.set_alpn_protocols(list(alpn))
        if certificate:
            self.context.load_cert_chain(*certificate)
        if version:
            self.context.minimum_version = self.context.maximum_version = version

    def elsewhere(self, source):
        """The same TLS session, dialling from another address."""
        other = copy.copy(self)
        other._source = (source, 0)
        return other

    def control(self):
        return self._dial(self.gateway.plain_port if self.plaintext else self.gateway.port)

    def reverse(self):
        return self._dial(self.gateway.plain_reverse_port if self.plaintext else self.gateway.reverse_port)

    def learn(self, sock):
        """Keeps the ticket that came with the first bytes, for the next connections."""
        if self.resume and not self.plaintext and sock.session and sock.session.has_ticket:
            self.session = sock.session

    def _dial(self, port):
        raw = socket.create_connection(("127.0.0.1", port), scaled(20), source_address=self._source)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.plaintext:
            return raw
        try:
            return self.context.wrap_socket(raw, server_hostname="localhost", session=self.session)
        except BaseException:
            raw.close()
            raise

    # One exchange on a connection of its own

    def ask(self, request, pieces=None, fin=False, reverse=False):
        """Sends the request and reads until the gateway has closed; returns the answer.

        `pieces`: a size, or the list of what to send instead, each in a write of its own. `fin`: says the end after it.
        """
        sock = self.reverse() if reverse else self.control()
        with sock:
            send_pieces(sock, request, pieces)
            if fin:
                send_fin(sock)
            answer = read_to_end(sock)
            self.learn(sock)
        return answer

    def login(self, request):
        """The answer of 02 or 03 as the client takes it: by one read."""
        with self.control() as sock:
            sock.sendall(request)
            answer = sock.recv(ANSWER_READ)
            self.learn(sock)
            assert read_to_end(sock) == b"", "the answer came in more than one write"
        return answer

    def attach(self, opening, client_id, app_id):
        """An idle reverse connection."""
        sock = self.reverse()
        if opening:
            sock.sendall(opening)
            answer = sock.recv(1)
            assert answer == AUTH_OK, f"reverse authentication: {answer!r}"
            self.learn(sock)
        sock.sendall(ids(client_id, app_id))
        return sock


def send_pieces(sock, data, pieces=None):
    if pieces is None:
        pieces = [data] if data else []
    elif isinstance(pieces, int):
        pieces = [data[at:at + pieces] for at in range(0, len(data), pieces)]
    for piece in pieces:
        sock.sendall(piece)


def send_fin(sock, close_notify=True):
    """Says the end and goes on reading; without `close_notify` as a TCP connection does that was cut."""
    if isinstance(sock, ssl.SSLSocket) and close_notify:
        before = sock.gettimeout()
        sock.setblocking(False)
        try:
            sock.unwrap()
        except (ssl.SSLError, OSError):
            pass  # what the gateway says is read later
        sock.settimeout(before)
    try:
        socket.socket.shutdown(sock, socket.SHUT_WR)
    except OSError:
        pass  # the gateway was faster


def read_to_end(sock, timeout=15.0, allow_reset=False):
    """Everything until the gateway's end, which must be orderly: a reset may have destroyed the answer."""
    sock.settimeout(scaled(timeout))
    data = b""
    while True:
        try:
            part = sock.recv(65536)
        except TimeoutError:
            raise AssertionError(f"not closed within {scaled(timeout):g} s, after {data!r}") from None
        except ssl.SSLError as error:
            # A connection that ended without close_notify is answered with an alert.
            ends = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or "decode error" in str(error)
            assert ends, f"after {data!r}: {error!r}"
            return data
        except ConnectionResetError:
            assert allow_reset, f"a reset after {data!r}"
            return data
        if not part:
            return data
        data += part


def expect_nothing(sock):
    """Asserts that neither data nor an end has come."""
    sock.settimeout(0)
    try:
        data = sock.recv(64)
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    else:
        raise AssertionError(f"came too early: {data!r}")
    finally:
        sock.settimeout(scaled(20))


def read_control(sock, size, timeout=10.0):
    """A control message as the client takes it: one read, after everything has come that comes with it."""
    ready = getattr(sock, "pending", lambda: 0)() or select.select([sock], [], [], scaled(timeout))[0]
    assert ready, f"no control message within {scaled(timeout):g} s"
    sock.settimeout(scaled(timeout))
    return sock.recv(size)


def expect_end(sock, timeout=10.0):
    """Asserts that the gateway closes, having said nothing."""
    began = time.monotonic()
    data = read_to_end(sock, timeout, allow_reset=True)
    assert data == b"", f"{data!r} instead of an end"
    return time.monotonic() - began
