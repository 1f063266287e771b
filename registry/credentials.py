"""Credentials: the files of docker and podman, and the helpers that they name.

The order is podman's (containers-auth.json(5)): its own files first, docker's after them. In each a helper for the host
counts before the store of all hosts, and that before what the file itself says.
https://docs.docker.com/reference/cli/docker/login/#credential-helpers
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import UsageError
from registry.manifest import parse_json_object

HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
"""Names of one registry, whose credentials lie under an address of old."""

_HUB_KEY = "https://index.docker.io/v1/"
_IDENTITY = "<token>"
"""The user name under which a helper gives an identity token."""

_UNKNOWN = ("credentials not found in native keychain", "no credentials server URL", "no credentials username")
"""What helpers say when they know nothing; anything else is a failure."""

_TIMEOUT = 60
"""Seconds that a helper may take: it may ask its owner."""

_MAX_FILE = 4 << 20


@dataclass(frozen=True)
class Login:
    """What proves who we are to one registry: a password, or a token to be exchanged, or one to be shown as it is."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a Basic `Authorization`; empty without a user (RFC 7617)."""
        pair = f"{self.username}:{self.password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}" if self.username else ""


@dataclass(frozen=True)
class Credentials:
    """The files that are searched, first to last, and the one that `login` writes to."""

    files: tuple[Path, ...] = ()
    written: Path | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str], home: Path | None) -> Credentials:
        """The files that docker and podman would use in this environment; a user may have no folder."""
        if explicit := environment.get("REGISTRY_AUTH_FILE"):
            return cls((Path(explicit),), Path(explicit))
        runtime = environment.get("XDG_RUNTIME_DIR")
        config = environment.get("XDG_CONFIG_HOME") or (home and home / ".config")
        docker = environment.get("DOCKER_CONFIG") or (home and home / ".docker")
        places = (
            runtime and Path(runtime, "containers/auth.json"),
            config and Path(config, "containers/auth.json"),
            docker and Path(docker, "config.json"),
            home and home / ".dockercfg",
        )
        files = tuple(place for place in places if isinstance(place, Path))
        return cls(files, Path(docker, "config.json") if docker else None)

    def find(self, host: str, repository: str) -> Login | None:
        """The login for a repository; None if no file and no helper knows one. `UsageError` for what is damaged."""
        for path in self.files:
            document = _read(path)
            if login := _from_helper(document, path, host) or _from_file(document, path, host, repository):
                return login
        return None

    def save(self, host: str, login: Login) -> str:
        """Keep the login where docker would, and return where: a file, or the name of a helper."""
        path = self.written
        if path is None:
            raise UsageError("there is no file to keep credentials in", hint="set HOME or DOCKER_CONFIG")
        document, key = _read(path), _key(host)
        if helper := _helper(document, path, key):
            entry = {"ServerURL": key, "Username": login.username, "Secret": login.password}
            _call(helper, "store", json.dumps(entry), path)
            return f"docker-credential-{helper}"
        pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        entries = {**_object(document.get("auths"), path), key: {"auth": pair}}
        _write(path, {**document, "auths": entries})
        return str(path)


def _key(host: str) -> str:
    return _HUB_KEY if host in HUB else host


def _read(path: Path) -> dict[str, Any]:
    """A file as an object; that of a file of old is the `auths` of the others. Nothing if there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if not data.strip():
        return {}
    try:
        document = parse_json_object(data, str(path))
    except Exception as error:
        raise _damaged(path, "it is no JSON object") from error
    return {"auths": document} if path.name == ".dockercfg" else document


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"credentials cannot be read: {why}", subject=str(path), hint="mend the file or remove it")


def _object(value: object, path: Path) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _damaged(path, "auths, credHelpers and their entries must be objects")
    return value


def _helper(document: dict[str, Any], path: Path, key: str) -> str:
    name = _object(document.get("credHelpers"), path).get(key) or document.get("credsStore") or ""
    if not isinstance(name, str) or "/" in name:
        raise _damaged(path, "a helper is named by the end of docker-credential-NAME")
    return name


def _from_helper(document: dict[str, Any], path: Path, host: str) -> Login | None:
    helper = _helper(document, path, _key(host)) or (_helper(document, path, host) if host in HUB else "")
    if not helper:
        return None
    answer = _call(helper, "get", _key(host), path)
    if answer is None:
        return None
    try:
        entry = json.loads(answer)
        username, secret = str(entry["Username"]), str(entry["Secret"])
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(path, f"docker-credential-{helper} answered with something else than a login") from error
    return Login(identity_token=secret) if username == _IDENTITY else Login(username, secret)


def _call(helper: str, verb: str, text: str, path: Path) -> str | None:
    """What a helper answers; None if it knows nothing (docker/docker-credential-helpers, README)."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb], input=text, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        hint = "install it, or remove its name from the file"
        raise UsageError(f"{program} is not installed", subject=str(path), hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{program} did not answer in {_TIMEOUT} s", subject=str(path)) from error
    if not done.returncode:
        return done.stdout
    said = (done.stdout + done.stderr).strip()
    if verb == "get" and any(sentence in said for sentence in _UNKNOWN):
        return None
    # what it said may hold what it was told, so only its first line, and never after storing
    found = said.splitlines()[0][:200] if said and verb == "get" else f"exit code {done.returncode}"
    raise UsageError(f"{program} {verb} failed", subject=str(path), found=found)


def _from_file(document: dict[str, Any], path: Path, host: str, repository: str) -> Login | None:
    """What a file says of a repository: the longest path that matches, then the host."""
    entries = _object(document.get("auths"), path)
    for key in _keys(host, repository):
        if key in entries:
            entry = _object(entries[key], path)
            if login := _login(entry, path):
                return login
    return None


def _keys(host: str, repository: str) -> Iterator[str]:
    parts = repository.split("/") if repository else []
    for name in dict.fromkeys((host, *(HUB if host in HUB else ()))):
        for count in range(len(parts), 0, -1):
            yield "/".join((name, *parts[:count]))
        yield from (name, f"https://{name}", f"https://{name}/", f"https://{name}/v1/", f"http://{name}")


_FIELDS = ("auth", "username", "password", "identitytoken", "registrytoken")


def _login(entry: dict[str, Any], path: Path) -> Login | None:
    fields = {name: entry.get(name) or "" for name in _FIELDS}
    if not all(isinstance(value, str) for value in fields.values()):
        raise _damaged(path, "a login is made of strings")
    username, password = fields["username"], fields["password"]
    if fields["auth"]:
        try:
            pair = base64.b64decode(fields["auth"], validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise _damaged(path, "an auth is not base64 of a user and a password") from error
        username, _, password = pair.rstrip("\0").partition(":")
    if fields["identitytoken"] or fields["registrytoken"]:
        return Login(identity_token=fields["identitytoken"], bearer=fields["registrytoken"])
    return Login(username, password) if username else None


def _write(path: Path, document: dict[str, Any]) -> None:
    """Replace the file in one step, for its owner's eyes only."""
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent="\t")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
