"""`serve.yaml`: which builds the listener looks after, who may call it and how, and who does the work."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from packer.buildfile import parse_duration, parse_size
from recipes.described import MAX_SIZE, parse_map, validated
from registry.errors import UsageError
from registry.events import ADAPTERS

WHAT = "configuration of the listener"

_HOOK = re.compile(r"/hooks/[A-Za-z0-9._~/-]{1,200}")


class RunnerKind(StrEnum):
    """Who does the work: processes of this machine, or pipelines of a cluster."""

    LOCAL = "local"
    TEKTON = "tekton"


def _wrong(why: str) -> PydanticCustomError:
    """An error of which pydantic says this and nothing more."""
    return PydanticCustomError("wrong", "{why}", {"why": why})


def _kind(value: object) -> object:
    if value not in ADAPTERS:
        near = difflib.get_close_matches(str(value), ADAPTERS, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise _wrong(f"a kind is one of {', '.join(sorted(ADAPTERS))}{meant}")
    return value


def _listed(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise _wrong("this is a list, also of one: [...]")
    return value


def _path(value: object) -> object:
    if not isinstance(value, str) or not _HOOK.fullmatch(value):
        raise _wrong("a path is /hooks/ and up to 200 letters, digits, '.', '_', '~', '-' and '/'")
    return value


def _told(read: Any) -> Any:
    """A reader of texts whose errors are those of a model."""

    def read_or_say(value: object) -> object:
        try:
            return read(str(value))
        except UsageError as error:
            raise _wrong(f"{error.what}: expected {error.expected}") from error

    return BeforeValidator(read_or_say)


Duration = Annotated[float, _told(parse_duration)]
Size = Annotated[int, _told(parse_size)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Secret(_Strict):
    """Where a secret is, and the header that shows it, if that is not the one that the sender always takes.

    `from_env` names a variable, `from_file` a file, whose last line end does not count.
    """

    from_env: str | None = None
    from_file: Path | None = None
    header: str | None = None

    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if (self.from_env is None) == (self.from_file is None):
            raise _wrong("a secret has from_env: NAME or from_file: PATH")
        return self

    def read(self, environment: Mapping[str, str]) -> bytes:
        """The secret itself; `UsageError` if it is not there, or empty."""
        name = f"${self.from_env}" if self.from_env else str(self.from_file)
        secret = _of_file(self.from_file) if self.from_file else environment.get(self.from_env or "", "").encode()
        if not secret:
            hint = "set it before the listener starts"
            raise UsageError("this secret is not there, or empty", subject=name, hint=hint)
        return secret


def _of_file(path: Path) -> bytes:
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(f"this secret cannot be read: {error.strerror}", subject=str(path)) from error


class Hook(_Strict):
    """A path that one sender calls.

    Without a secret it does not start, unless the path is one that nobody guesses (`unguessable`, for senders that sign
    nothing: the secret is its last part), or `insecure` is said. `rate` is in requests a minute.
    """

    kind: Annotated[str, BeforeValidator(_kind)]
    path: Annotated[str, BeforeValidator(_path)]
    secret: Secret | None = None
    unguessable: bool = False
    insecure: bool = False
    rate: Annotated[int, Field(ge=1)] = 600


def _paths_differ(hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
    paths = [hook.path for hook in hooks]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise _wrong(f"two sources have the path {twice}")
    return hooks


class Poll(_Strict):
    """How often every build is looked at without an event, in seconds; never if None."""

    every: Duration | None = None


class Local(_Strict):
    """What a build on this machine may take: bytes of memory for each of its processes, seconds in all."""

    memory: Size | None = None
    timeout: Duration = 24 * 3600.0


class Tekton(_Strict):
    """Where pipelines run; `kubeconfig` is a file, the cluster that the listener is in if None.

    `run` is the PipelineRun that `packer ci tekton` wrote, beside each build file; `namespace` is its own if None.
    `timeout` is how many seconds a run may take.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    run: Path = Path("tekton/run/run.yaml")
    timeout: Duration = 24 * 3600.0


class Retries(_Strict):
    """How often a build is tried again that failed for want of a registry, a source, disk or memory (exit 5 or 6).

    The first time after `first` seconds, then after twice as long each time, at most after `longest`.
    """

    times: Annotated[int, Field(ge=0, le=100)] = 5
    first: Duration = 30.0
    longest: Duration = 3600.0


class Login(_Strict):
    """Who may see the pages: a name, and where the password is."""

    user: str
    password: Secret


class Config(_Strict):
    """All that the listener is told.

    `builds` are patterns of build files; `quiet` seconds without another event end the wait before a build, which never
    is longer than `patience`; `grace` is what running builds get when the listener stops; `keep` is how long what
    happened is remembered. All in seconds. `database` says where a URL of PostgreSQL is; it is SQLite in the folder
    `state` otherwise, which also has the logs.
    """

    builds: Annotated[tuple[str, ...], BeforeValidator(_listed)]
    listen: str = "127.0.0.1:8080"
    runner: RunnerKind = RunnerKind.LOCAL
    concurrency: Annotated[int, Field(ge=1, le=64)] = 1
    sources: Annotated[tuple[Hook, ...], BeforeValidator(_listed), AfterValidator(_paths_differ)] = ()
    poll: Poll = Poll()
    quiet: Duration = 5.0
    patience: Duration = 300.0
    grace: Duration = 30.0
    keep: Duration = 90 * 24 * 3600.0
    state: Path = Path("packer-state")
    database: Secret | None = None
    local: Local = Local()
    tekton: Tekton = Tekton()
    retries: Retries = Retries()
    login: Login | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise UsageError("this is no address", subject="listen", expected="HOST:PORT", found=self.listen)
        return host.strip("[]"), int(port)


def read_config(path: Path) -> Config:
    """The configuration in a file, whose paths are from its folder; `UsageError` if it is wrong."""
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_SIZE else b""
    except OSError as error:
        raise UsageError(f"this cannot be read: {error.strerror}", subject=str(path)) from error
    config = validated(parse_map(data, WHAT, Config, str(path)), WHAT, Config, str(path))
    folder = path.absolute().parent
    kubeconfig = config.tekton.kubeconfig and folder / config.tekton.kubeconfig
    login = config.login
    update = {
        "builds": tuple(str(folder / pattern) for pattern in config.builds),
        "state": folder / config.state,
        "sources": tuple(hook.model_copy(update={"secret": _beside(folder, hook.secret)}) for hook in config.sources),
        "database": _beside(folder, config.database),
        "login": login and login.model_copy(update={"password": _beside(folder, login.password)}),
        "tekton": config.tekton.model_copy(update={"kubeconfig": kubeconfig}),
    }
    return config.model_copy(update=update)


def _beside(folder: Path, secret: Secret | None) -> Secret | None:
    """The same secret, whose file is from a folder."""
    if not (secret and secret.from_file):
        return secret
    return secret.model_copy(update={"from_file": folder / secret.from_file})
