"""UDP: targets with a thread of their own, and visitors, which are plain sockets."""
import select
import socket
import threading

from .timing import scaled

LARGEST = 65507


class UdpTarget:
    """Binds `address`:`port`, and calls on_datagram(data, peer) on its thread. `peers` has everybody who sent
    something, in the order of their first datagram; `count` and `bytes` count what came."""

    def __init__(self, address="127.0.0.1", port=0, share=False):
        self.sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, share)  # with whoever wants to share as well
        self.sock.bind((address, port))
        self.port = self.sock.getsockname()[1]
        self.address = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"
        self.peers, self.count, self.bytes = {}, 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._over.is_set():
            ready, _, _ = select.select([self.sock], [], [], 0.1)
            while ready:
                try:
                    data, peer = self.sock.recvfrom(LARGEST + 100, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except ConnectionRefusedError:
                    continue
                self.peers[peer] = self.peers.get(peer, 0) + 1
                self.count += 1
                self.bytes += len(data)
                self.on_datagram(data, peer)

    def on_datagram(self, data, peer):
        """Nothing: it only counts."""

    def send(self, data, peer):
        self.sock.sendto(data, peer)

    def close(self):
        self._over.set()
        self._thread.join()
        self.sock.close()


class UdpEcho(UdpTarget):
    """Sends each datagram back, with `prefix` before it."""

    def __init__(self, prefix=b"", **options):
        self.prefix = prefix
        super().__init__(**options)

    def on_datagram(self, data, peer):
        try:
            self.send(self.prefix + data, peer)
        except BlockingIOError:
            pass


def udp_visitor(port, address="127.0.0.1", bind=None):
    """A socket that takes answers from that port and address alone."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.settimeout(scaled(10))
    if bind:
        sock.bind((bind, 0))
    sock.connect((address, port))
    return sock


def ask(sock, data=b"anybody there?", wanted=None, tries=5, timeout=2.0):
    """Sends and waits for the answer, which it returns; does both again as resolvers do: a datagram may be lost."""
    for left in reversed(range(tries)):
        sock.send(data)
        sock.settimeout(scaled(timeout))
        try:
            answer = sock.recv(LARGEST + 100)
            while wanted is not None and answer != wanted:
                answer = sock.recv(LARGEST + 100)
            return answer
        except (TimeoutError, ConnectionRefusedError):
            if not left:
                raise


def silent(sock, seconds):
    """Whether nothing comes for so long."""
    ready, _, _ = select.select([sock], [], [], scaled(seconds))
    return not ready
