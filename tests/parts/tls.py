"""A private certificate authority, and registries that speak TLS with what it signed."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.parts.command import run
from tests.parts.servers import Server, docker_registry

_PROFILES = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """An authority, what it signed for 127.0.0.1 and localhost and for a client, and one that signed nothing."""

    ca: Pair
    server: Pair
    client: Pair
    stranger: Pair


@functools.cache
def certificates() -> Certificates:
    """The certificates of this run, made the first time and removed at its end."""
    folder = _folder()
    ca = signed(folder, "ca")
    return Certificates(
        ca, signed(folder, "server", ca), signed(folder, "client", ca), signed(folder, "stranger", profile="ca")
    )


def signed(folder: Path, name: str, by: Pair | None = None, profile: str = "", key: str = "ec") -> Pair:
    """A new pair in `folder`, signed by another or itself; its profile (ca, server or client) is `name` by default."""
    config = folder / "openssl.cnf"
    config.write_text(_PROFILES)
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1") if key == "ec" else ("-newkey", key)
    signer = ("-CA", by.certificate, "-CAkey", by.key) if by else ()
    names = ("-config", config, "-extensions", profile or name, "-subj", f"/CN={name}", "-days", "2")
    run("openssl", "req", "-x509", "-nodes", *kind, *signer, *names, "-out", pair.certificate, "-keyout", pair.key)
    return pair


@contextlib.contextmanager
def tls_registry(folder: Path, more: str = "", *, clients: bool = False) -> Iterator[Server]:
    """docker-registry behind TLS; with `clients` it refuses who does not show a certificate of the authority's."""
    made = certificates()
    known = f", clientcas: ['{made.ca.certificate}']" if clients else ""
    tls = f"tls: {{certificate: '{made.server.certificate}', key: '{made.server.key}'{known}}}"
    with docker_registry(folder, more, http=tls) as server:  # answers plain HTTP too, with 400
        yield server


@functools.cache
def _keeper() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="certificates-")


def _folder() -> Path:
    return Path(_keeper().name)
