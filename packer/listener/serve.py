"""The listener as a whole: its memory, its dispatcher and its server, from start to stop."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from packer.listener.builds import Builds
from packer.listener.config import Config, Hook, RunnerKind, Secret
from packer.listener.dispatch import SILENCE, Dispatcher, Log
from packer.listener.local import LocalRunner, forget_logs
from packer.listener.runner import Runner
from packer.listener.store import Store
from registry.errors import TransferError, UsageError
from registry.events.trust import DEFAULTS, Proof, Shared, Trust

_FOR_EVER = 1e18
"""Later than all times: who is alone with the database knows that nothing runs."""

_SQLITE = "sqlite:///"

_LEAST = 16
"""Characters of a secret that is a part of an address."""


def database(config: Config, environment: Mapping[str, str]) -> str:
    """The URL of the database."""
    if config.database:
        return config.database.read(environment).decode()
    config.state.mkdir(parents=True, exist_ok=True)
    return f"{_SQLITE}{config.state / 'listener.db'}"


def serve(config: Config, environment: Mapping[str, str], log: Log, stop: Event) -> None:
    """Take events and run builds until `stop` is set.

    `UsageError` for a hook that nothing protects, a secret that is not there, or a state that another listener uses.
    """
    trusts, unguessable = trusts_of(config, environment), unguessable_of(config, environment)
    password = config.login.password.read(environment) if config.login else None
    host, port = config.address
    from packer.listener.web.app import create_app
    from packer.listener.web.server import Server

    with alone(config), opened(database(config, environment)) as store:
        builds = Builds(config.builds)
        runner, tidy = _runner(config, environment), partial(forget_logs, logs(config))
        dispatcher = Dispatcher(config, store, builds, runner, _owner(), log, forget=tidy)
        dispatcher.recover(dispatcher.clock() - SILENCE if config.database else _FOR_EVER)
        app = create_app(config, store, builds, trusts, unguessable, logs(config), password, dispatcher.wake, log=log)
        server = Server(app, host, port)
        with server.running() as listening:
            log("listening", address=f"{host}:{listening}", builds=sorted(builds.read()))
            worker = Thread(target=dispatcher.work, args=(stop,))
            worker.start()
            stop.wait()
            log("stopping")
        worker.join()
    log("stopped")


def logs(config: Config) -> Path:
    """The folder of the runs' logs."""
    return config.state / "runs"


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """The memory in a database; `UsageError` if the URL is none, `TransferError` if the database does not answer."""
    try:
        store = Store(url)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        expected = "postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        raise UsageError("this is no URL of a database", subject="database", expected=expected) from error
    except SQLAlchemyError as error:
        if url.startswith(_SQLITE):
            why, file = getattr(error, "orig", None) or type(error).__name__, url.removeprefix(_SQLITE)
            hint = "see who may write it, and whether something else lies there"
            raise TransferError("the database cannot be read", subject=file, found=why, hint=hint) from error
        found = type(error).__name__
        hint = "see whether it runs, and who may come in"
        raise TransferError("the database does not answer", subject="database", found=found, hint=hint) from error
    try:
        yield store
    finally:
        store.close()


@contextmanager
def alone(config: Config) -> Iterator[None]:
    """No other listener of this machine uses the same state; `UsageError` if one does."""
    config.state.mkdir(parents=True, exist_ok=True)
    with (config.state / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "stop it, or give this one another state: FOLDER"
            raise UsageError("another listener uses this state", subject=str(config.state), hint=hint) from error
        yield


def _runner(config: Config, environment: Mapping[str, str]) -> Runner:
    if config.runner is RunnerKind.TEKTON:
        from packer.listener.tekton import TektonRunner

        return TektonRunner(config.tekton, without_secrets(config, environment))
    local = config.local
    return LocalRunner(logs(config), without_secrets(config, environment), local.memory, local.timeout, config.grace)


def _secrets(config: Config) -> Iterator[Secret]:
    yield from (hook.secret for hook in config.sources if hook.secret)
    if config.login:
        yield config.login.password
    if config.database:
        yield config.database


def without_secrets(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """What builds get of the environment: not what protects the listener."""
    names = {secret.from_env for secret in _secrets(config)}
    return {name: value for name, value in environment.items() if name not in names}


def trusts_of(config: Config, environment: Mapping[str, str]) -> dict[str, Trust | None]:
    """What proves a sender, by path; None where nothing does, which must have been said."""
    return {hook.path: _trust(hook, environment) for hook in config.sources}


def _trust(hook: Hook, environment: Mapping[str, str]) -> Trust | None:
    if hook.unguessable:
        if not hook.secret:
            hint = "secret: {from_env: NAME}; it becomes the last part of the path"
            raise UsageError("a path that nobody guesses needs a secret", subject=hook.path, hint=hint)
        return None
    if hook.secret:
        return _proof(hook).trust(hook.secret.read(environment), hook.secret.header)
    if hook.insecure:
        return None
    hint = "secret: {from_env: NAME}" + ("" if DEFAULTS[hook.kind] else ", unguessable: true")
    what = "nothing protects this path: whoever reaches it could start builds"
    raise UsageError(
        what, subject=f"sources: {hook.path}", hint=f"{hint}; or, where only the sender reaches it, insecure: true"
    )


def _proof(hook: Hook) -> Proof:
    proof = DEFAULTS[hook.kind]
    if proof:
        return proof
    assert hook.secret
    if not hook.secret.header:
        what = f"{hook.kind} sends no proof of its own"
        hint = "unguessable: true, or secret: {header: NAME, ...} if something between adds one"
        raise UsageError(what, subject=f"sources: {hook.path}", hint=hint)
    return Proof(Shared, hook.secret.header)


def unguessable_of(config: Config, environment: Mapping[str, str]) -> dict[str, bytes]:
    """The secret parts of paths, by path; `UsageError` for one that can be guessed, or is no part of an address."""
    hooks = (hook for hook in config.sources if hook.unguessable and hook.secret)
    found = {hook.path: hook.secret.read(environment) for hook in hooks if hook.secret}
    for path, secret in found.items():
        if len(secret) < _LEAST or not re.fullmatch(rb"[A-Za-z0-9._~-]+", secret):
            expected = f"at least {_LEAST} letters, digits, '.', '_', '~' or '-'"
            what = "this secret is none for an address that nobody guesses"
            raise UsageError(what, subject=path, expected=expected, hint="openssl rand -hex 24")
    return found
