"""The visitors of the public ports: plain sockets and what tests do with many of them."""
import random
import selectors
import socket
import struct
import threading
import time

from .timing import scaled

CHUNK = 256 * 1024


def connect(port, address="127.0.0.1", timeout=10.0):
    sock = socket.create_connection((address, port), scaled(timeout))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def open_many(port, count, **options):
    return [connect(port, **options) for _ in range(count)]


def random_payload(size, seed=1):
    return random.Random(seed).randbytes(size)


def recv_exact(sock, size):
    """`size` bytes, or an assertion with how many came before the end."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(min(CHUNK, size - len(data)))
        assert part, f"the stream ended after {len(data)} of {size} bytes"
        data += part
    return bytes(data)


def recv_all(sock):
    """Everything until the FIN. A reset raises ConnectionResetError."""
    data = bytearray()
    while part := sock.recv(CHUNK):
        data += part
    return bytes(data)


def round_trip(port_or_sock, payload):
    """Sends the payload and a FIN while it reads until the FIN; returns what came back."""
    sock = connect(port_or_sock) if isinstance(port_or_sock, int) else port_or_sock
    failure = []

    def send():
        try:
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            failure.append(error)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with sock:
        received = recv_all(sock)
        sender.join(scaled(10))
    assert not failure, f"sending failed: {failure[0]}"
    return received


def send_until_blocked(sock, limit, quiet=1.0):
    """Sends up to `limit` bytes and stops when the path takes nothing for `quiet` seconds; returns how many went."""
    chunk, sent = bytes(CHUNK), 0
    sock.settimeout(scaled(quiet))
    try:
        while sent < limit:
            sent += sock.send(chunk[:limit - sent])
    except TimeoutError:
        pass
    return sent


def abort(sock):
    """Closes with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def how_closed(sock, timeout=10.0):
    """Reads on until the end: "fin", "reset", or "open" when neither came in time. Data is thrown away."""
    deadline = time.monotonic() + scaled(timeout)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "open"
        sock.settimeout(left)
        try:
            if not sock.recv(CHUNK):
                return "fin"
        except TimeoutError:
            return "open"
        except ConnectionResetError:
            return "reset"


def how_visit_ends(port, data=b"", timeout=10.0):
    """how_closed() of a new visitor that sends `data`; a reset may come as early as in connect."""
    try:
        with connect(port, timeout=timeout) as sock:
            if data:
                sock.sendall(data)
            return how_closed(sock, timeout)
    except (ConnectionResetError, BrokenPipeError):
        return "reset"


def expect_eof(sock, timeout=10.0):
    how = how_closed(sock, timeout)
    assert how == "fin", f"expected a FIN, the connection is: {how}"


def expect_reset(sock, timeout=10.0):
    how = how_closed(sock, timeout)
    assert how == "reset", f"expected a reset, the connection is: {how}"


def expect_open(sock):
    """Asserts that neither data nor an end waits to be read."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        if selector.select(0):
            raise AssertionError(f"the connection is not idle: {sock.recv(64, socket.MSG_DONTWAIT)!r}")


def wait_all_closed(socks, timeout=10.0):
    """Waits until every connection has ended; returns how, in order. Data is thrown away."""
    ends = {}
    deadline = time.monotonic() + scaled(timeout)
    with selectors.DefaultSelector() as selector:
        for index, sock in enumerate(socks):
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, index)
        while len(ends) < len(socks):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            assert ready, f"{len(socks) - len(ends)} of {len(socks)} connections still open after {scaled(timeout):g} s"
            for key, _ in ready:
                try:
                    data, end = key.fileobj.recv(CHUNK), "fin"
                except ConnectionResetError:
                    data, end = b"", "reset"
                if not data:
                    ends[key.data] = end
                    selector.unregister(key.fileobj)
    return [ends[index] for index in range(len(socks))]


def echo_all(socks, payload, timeout=30.0):
    """Sends the payload on all connections at once and reads the echoes; asserts that each is the same."""
    deadline = time.monotonic() + scaled(timeout)
    left, got = {s: memoryview(payload) for s in socks}, {s: bytearray() for s in socks}
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, both)
        unfinished = len(socks)
        while unfinished:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            assert ready or time.monotonic() < deadline, f"{unfinished} of {len(socks)} echoes incomplete"
            for key, mask in ready:
                sock = key.fileobj
                if mask & selectors.EVENT_WRITE and left[sock]:
                    left[sock] = left[sock][sock.send(left[sock][:CHUNK]):]
                    if not left[sock]:
                        selector.modify(sock, selectors.EVENT_READ)
                if mask & selectors.EVENT_READ:
                    part = sock.recv(CHUNK)
                    assert part, f"a connection ended after {len(got[sock])} of {len(payload)} bytes"
                    got[sock] += part
                    if len(got[sock]) >= len(payload):
                        selector.unregister(sock)
                        unfinished -= 1
    for sock in socks:
        sock.settimeout(scaled(10))
        assert got[sock] == payload, "an echo differs"
