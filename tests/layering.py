#!/usr/bin/env python3
"""Checks the layering rule of docs/architecture.md and that each public header stands alone.

tools/test.sh runs it; alone: tests/layering.py [--root DIR]. Prints every violation and ends with 1 on any.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

# What a layer may include besides its own headers.
ALLOWED = {
    "base": set(),
    "net": {"base"},
    "wire": {"base"},
    "store": {"base"},
    "core": {"store", "base"},
    "pipe": {"net", "base"},
    "trunk": {"pipe", "net", "wire", "base"},
    "nsp": {"pipe", "net", "wire", "base"},
    "relay": {"pipe", "core", "net", "wire", "base"},
    "gateway": {"relay", "trunk", "nsp", "pipe", "core", "store", "net", "wire", "base"},
    "agent": {"trunk", "pipe", "net", "wire", "base"},
    "ctl": {"core", "store", "wire", "base"},
}

EVENT = r"event2/.*|event\.h|evhttp\.h"
LOOP = EVENT + r"|sys/epoll\.h|poll\.h|sys/poll\.h"
SOCKETS = r"sys/socket\.h|sys/un\.h|netinet/.*|arpa/.*|netdb\.h|ifaddrs\.h"
TLS = r"openssl/ssl\.h"
# System headers that a layer must not include itself, by what they would let it touch.
FORBIDDEN = {
    "base": rf"{EVENT}|sys/epoll\.h|{TLS}",
    "wire": f"{LOOP}|{SOCKETS}|{TLS}",
    "store": f"{LOOP}|{SOCKETS}|{TLS}",
    "core": f"{LOOP}|{SOCKETS}|{TLS}",
    "ctl": EVENT,
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def includes_of(path):
    """(line number, bracket, name) of each #include in a file."""
    text = path.read_text(errors="replace")
    return [(text.count("\n", 0, m.start(1)) + 1, m[1], m[2]) for m in INCLUDE.finditer(text)]


def layer_of(name):
    """The layer in a path below postern/, "store" of "postern/store/store.h"."""
    parts = name.split("/")
    return parts[1] if len(parts) == 3 and parts[0] == "postern" else None


class Tree:
    def __init__(self, root):
        self.root = root
        self.headers = root / "include"
        self.violations = []

    def report(self, path, line, what):
        self.violations.append(f"{path.relative_to(self.root)}:{line}: {what}")

    def files(self):
        """(layer, path) of each header and source that belongs to a layer."""
        for top in (self.headers / "postern", self.root / "src"):
            for path in sorted(p for p in top.rglob("*") if p.is_file()) if top.is_dir() else ():
                parts = path.relative_to(top).parts
                if path.suffix not in (".c", ".h"):
                    self.report(path, 1, "neither a .c nor a .h file")
                elif len(parts) != 2 or parts[0] not in ALLOWED:
                    self.report(path, 1, "not in the folder of a layer")
                elif path.suffix == ".c" and top.name != "src":
                    self.report(path, 1, "a source among the headers")
                elif path.suffix == ".h" and top.name == "src":
                    self.report(path, 1, "a header among the sources: headers live in include/postern/<layer>/")
                else:
                    yield parts[0], path

    def check_include(self, layer, path, line, bracket, name):
        if bracket == '"' or name.startswith("postern/"):
            other = layer_of(name)
            if bracket != '"' or other is None:
                self.report(path, line, f'"{name}": own headers are included as "postern/<layer>/<module>.h"')
            elif other not in ALLOWED:
                self.report(path, line, f'"{name}": no such layer')
            elif other != layer and other not in ALLOWED[layer]:
                self.report(path, line, f'"{name}": {layer} may not include {other}')
            elif not (self.headers / name).is_file():
                self.report(path, line, f'"{name}": no such header')
        elif re.fullmatch(FORBIDDEN.get(layer, r"(?!)"), name):
            self.report(path, line, f"<{name}>: {layer} must not touch it")
        elif name == "lmdb.h" and layer != "store":
            self.report(path, line, "<lmdb.h>: the store alone knows LMDB")

    def shows_lmdb(self, name, seen):
        """Whether a header lets its includer see LMDB's types."""
        path = self.headers / name
        if name in seen or not path.is_file():
            return False
        seen.add(name)
        return any(n == "lmdb.h" or self.shows_lmdb(n, seen) for _, _, n in includes_of(path))

    def check_lmdb(self, layer, path):
        seam = path == self.headers / "postern/store/store.h"
        if layer == "store" and not seam:
            return
        for line, _, name in includes_of(path):
            if layer_of(name) == "store" and self.shows_lmdb(name, set()):
                self.report(path, line, f'"{name}": it shows LMDB outside the store')
            elif name == "lmdb.h" and seam:
                self.report(path, line, "<lmdb.h>: store.h shows no LMDB type")

    def check_includes(self):
        for layer, path in self.files():
            for line, bracket, name in includes_of(path):
                self.check_include(layer, path, line, bracket, name)
            self.check_lmdb(layer, path)

    def check_header_alone(self, compiler, path):
        name = path.relative_to(self.headers)
        # Twice: the second time shows a missing include guard.
        source = f'#include "{name}"\n#include "{name}"\n'
        command = [compiler, "-fsyntax-only", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                   "-Wno-unused-parameter", f"-I{self.headers}", "-x", "c", "-"]
        done = subprocess.run(command, input=source, capture_output=True, text=True)
        if done.returncode != 0:
            self.report(path, 1, "does not compile alone:\n" + done.stderr.rstrip())

    def check_headers_alone(self, compiler):
        headers = sorted((self.headers / "postern").rglob("*.h"))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda path: self.check_header_alone(compiler, path), headers))
        return len(headers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent,
                        help="the project's folder")
    parser.add_argument("--cc", default=os.environ.get("CC", "gcc"), help="the compiler (default: $CC or gcc)")
    options = parser.parse_args()
    if not shutil.which(options.cc):
        print(f"layering: no such compiler: {options.cc}", file=sys.stderr)
        return 2
    tree = Tree(options.root.resolve())
    tree.check_includes()
    headers = tree.check_headers_alone(options.cc)
    for violation in sorted(tree.violations):
        print(violation)
    if headers == 0:
        print("layering: no headers found", file=sys.stderr)
        return 1
    print(f"layering: {headers} headers, {len(tree.violations)} violations")
    return 1 if tree.violations else 0


if __name__ == "__main__":
    sys.exit(main())
