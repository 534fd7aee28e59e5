"""Port ranges for the tests, locked rather than guessed: test runs side by side never share one.

The ports between 20000 and 32000 lie below Linux's ephemeral range, so no outgoing connection takes one by chance.
They are cut into blocks; a block belongs to whoever holds the lock on its file.
"""
import fcntl
import os
import pathlib
import random
import socket
import tempfile

FIRST, LAST, BLOCK = 20000, 31999, 24
BLOCKS = (LAST - FIRST + 1) // BLOCK


def _lock_folder():
    folder = pathlib.Path(tempfile.gettempdir(), f"postern-test-ports-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def port_is_free(port, address="127.0.0.1", kind=socket.SOCK_STREAM):
    """Whether a program could listen on the port now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(1)
        except OSError:
            return False
    return True


def _block_is_free(block):
    ports = range(FIRST + block * BLOCK, FIRST + (block + 1) * BLOCK)
    return all(port_is_free(p, "0.0.0.0") and port_is_free(p, "0.0.0.0", socket.SOCK_DGRAM) for p in ports)


class PortRange:
    """`count` consecutive ports, locked until release()."""

    def __init__(self, count):
        self._locks = []
        needed = -(-count // BLOCK)
        start = random.randrange(BLOCKS)
        for offset in range(BLOCKS):
            block = (start + offset) % BLOCKS
            if block + needed <= BLOCKS and self._take(range(block, block + needed)):
                self.first = FIRST + block * BLOCK
                self.last = self.first + count - 1
                return
        raise RuntimeError(f"no {count} free ports in a row between {FIRST} and {LAST}")

    def _take(self, blocks):
        for block in blocks:
            descriptor = os.open(_lock_folder() / str(block), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._locks.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            if not _block_is_free(block):
                break
        else:
            return True
        self.release()
        return False

    def release(self):
        while self._locks:
            os.close(self._locks.pop())

    def __iter__(self):
        return iter(range(self.first, self.last + 1))

    def __len__(self):
        return self.last - self.first + 1

    def __str__(self):
        return f"{self.first}-{self.last}"
