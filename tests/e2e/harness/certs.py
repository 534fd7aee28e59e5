"""Certificates for the tests, by certs/make-certs.sh; each authority is made once per test run."""
import pathlib
import ssl
import subprocess

PROJECT = pathlib.Path(__file__).resolve().parents[3]
SCRIPT = PROJECT / "certs/make-certs.sh"
GATEWAY_NAMES = ("localhost", "127.0.0.1", "::1")


def make(folder, *arguments):
    subprocess.run([SCRIPT, "--out", folder, *arguments], check=True, capture_output=True, text=True)


class Certs:
    """`ca`, `crt` and `key` of the gateway of the tests; the methods give paths of further ones."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._main = self.folder / "main"
        if not self._main.exists():
            make(self._main, *GATEWAY_NAMES)
        self.ca = self._main / "ca.crt"
        self.crt, self.key = self._main / "gateway.crt", self._main / "gateway.key"

    def gateway_for(self, *names):
        """(crt, key) of the same authority for other names, for instance a wrong one."""
        return self._variant("names-" + "-".join(names).replace(":", "_").replace("*", "star"), names)

    def expired(self):
        """(crt, key) of the same authority and names that has expired."""
        crt, key = self._variant("expired", GATEWAY_NAMES)
        folder = crt.parent
        if not (folder / "leaf.crt").exists():
            extensions = folder / "extensions"
            extensions.write_text("basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n"
                                  "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")
            steps = [
                ["req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", folder / "expired.csr"],
                ["x509", "-req", "-in", folder / "expired.csr", "-CA", self.ca, "-CAkey", self._main / "ca.key",
                 "-set_serial", "4711", "-days", "-1", "-extfile", extensions, "-out", folder / "leaf.crt"],
            ]
            for step in steps:
                subprocess.run(["openssl", *step], check=True, capture_output=True)
            crt.write_text((folder / "leaf.crt").read_text() + self.ca.read_text())
        return crt, key

    def client(self, name):
        """(crt, key) of a client certificate with this common name."""
        if not (self._main / f"{name}.crt").exists():
            make(self._main, "--client", name)
        return self._main / f"{name}.crt", self._main / f"{name}.key"

    def other(self):
        """The certificates of a second authority, for what must not be trusted."""
        return Certs(self.folder / "other")

    def client_context(self, alpn=("postern/1",)):
        """A verifying client's ssl.SSLContext, for tests that speak the protocol themselves."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.set_alpn_protocols(list(alpn))
        return context

    def _variant(self, label, names):
        folder = self.folder / label
        if not folder.exists():
            folder.mkdir(parents=True)
            for name in ("ca.crt", "ca.key"):
                (folder / name).write_bytes((self._main / name).read_bytes())
            make(folder, *names)
        return folder / "gateway.crt", folder / "gateway.key"
