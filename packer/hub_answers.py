"""What the Hub answers: its listings, checked, and its refusals, as errors that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlsplit

from formats.text import printable
from registry.errors import ContentError, NotFoundError, ResponseError, TransferError, UsageError

_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_SHOWN = 100
"""Characters of an answer that an error shows."""

_Kind = tuple[type[TransferError], str, str]
"""What kind of error it is, what happened, what to do."""

_REFUSED: _Kind = (ResponseError, "the Hub refused", "try again later")
_HIDDEN: _Kind = (NotFoundError, "the Hub has no such repository, or hides it from you", "check the name, and HF_TOKEN")
_REFUSALS: dict[str, _Kind] = {
    "GatedRepo": (ResponseError, "this model is gated", "accept its terms on the Hub's page and set HF_TOKEN"),
    "RevisionNotFound": (NotFoundError, "the repository has no such revision", "check what stands after @"),
    "EntryNotFound": (NotFoundError, "the Hub lists this file and does not have it", "try again later"),
    "RepoNotFound": _HIDDEN,
    "401": _HIDDEN,
    "403": (
        ResponseError,
        "the Hub does not let you read this",
        "accept the model's terms on the Hub's page, and set HF_TOKEN to a token that may read it",
    ),
    "404": (NotFoundError, "the Hub has nothing of this name", "check the name, the revision, and HF_TOKEN"),
    "429": (ResponseError, "the Hub has had enough requests for now", "wait some minutes, or set HF_TOKEN"),
}
"""By the code that the Hub sends along, or by the status."""

_BAD_TOKEN: _Kind = (ResponseError, "the Hub does not accept the token", "set HF_TOKEN to a valid one, or to none")


@dataclass(frozen=True)
class HubFile:
    """What the Hub says of a file: its size in bytes, the sha256 of a large file, and git's sha1 of what git keeps."""

    path: str
    size: int
    blob_id: str
    sha256: str


class Refusal(Protocol):
    """An answer with an error status, of whichever HTTP library."""

    @property
    def status_code(self) -> int:
        """Such as 403."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Of which the Hub's own are X-Error-Code and X-Error-Message."""

    @property
    def url(self) -> object:
        """Where it came from, after all redirects."""


def listing(repository: str, revision: str, kind: str = "model") -> tuple[str, dict[str, HubFile]]:
    """The commit that the revision means now, and its files by path; `ContentError` if the answers are not that.

    `kind` is `model` or `dataset`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    expected = f"the {kind} and its commit, as JSON with an id and a sha of 40 hexadecimal digits"
    with understood(expected):
        commit = api.repo_info(repository, revision=revision, repo_type=kind).sha
    if not _fits(_COMMIT, commit):
        raise _nonsense(expected, f"the sha {_shown(commit)}")
    with understood("the files of the commit, as a JSON list with the type, path, size and oid of each"):
        entries = list(api.list_repo_tree(repository, revision=commit, recursive=True, repo_type=kind))
    files = [_file(entry) for entry in entries if isinstance(entry, RepoFile)]
    return str(commit), {file.path: file for file in files}


def _file(entry: Any) -> HubFile:
    """What the client read of a file, without having looked at it."""
    path, size, blob_id = entry.path, entry.size, entry.blob_id
    sha256 = entry.lfs.sha256 if entry.lfs else ""
    if not isinstance(path, str) or not path:
        raise _nonsense("a path for each file", f"the path {_shown(path)}")
    if type(size) is not int or size < 0:
        raise _nonsense(f"the size of {path} in bytes", _shown(size))
    if not isinstance(blob_id, str):
        raise _nonsense(f"the oid of {path}", _shown(blob_id))
    if entry.lfs and not _fits(_SHA256, sha256):
        raise _nonsense(f"the sha256 of {path}, 64 hexadecimal digits", _shown(sha256))
    return HubFile(path, size, blob_id, sha256)


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


@contextmanager
def understood(expected: str) -> Iterator[None]:
    """Around calls of huggingface_hub, which takes answers as they come and stumbles over what they lack."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HFValidationError, errors.HfHubHTTPError):
        raise
    except json.JSONDecodeError as error:
        found = f"{_shown(error.doc)}, {len(error.doc)} characters that are no JSON ({error})"
        raise _nonsense(expected, found if error.doc else "nothing") from error
    except KeyError as error:
        raise _nonsense(expected, f"JSON without {_shown(error.args[0])}") from error
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise _nonsense(expected, f"something of another shape ({str(error)[:_SHOWN]})") from error


def _nonsense(expected: str, found: str) -> ContentError:
    from huggingface_hub import constants

    return ContentError(
        "this is not what a Hugging Face Hub answers",
        subject=_host(constants.ENDPOINT),
        expected=expected,
        found=found,
        hint="check HF_ENDPOINT, and whether a proxy or a login page answers in the Hub's place; then try again",
    )


def _shown(value: object) -> str:
    return repr(value[:_SHOWN] if isinstance(value, str) else value)[: 2 * _SHOWN]


def _host(url: object) -> str:
    """The host and the port of a URL, without a login, safe to print."""
    return printable(urlsplit(str(url)).netloc.rpartition("@")[2])


def _address(url: object) -> tuple[str | None, int | None]:
    """The host and the port that a URL leads to, whether or not it tells the port."""
    parts = urlsplit(str(url))
    try:
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:  # a port that does not exist
        return parts.hostname, None


def refused(answer: Refusal, origin: str) -> TransferError:
    """The error for an answer that is none; the Hub says why by a code, where it redirects to only by the status."""
    from huggingface_hub import constants

    said = printable(answer.headers.get("X-Error-Message", "")[:_SHOWN])
    code, status = answer.headers.get("X-Error-Code", ""), str(answer.status_code)
    if code in _REFUSALS:
        kind, what, hint = _REFUSALS[code]
    elif _address(answer.url) != _address(constants.ENDPOINT):
        kind, what, hint = _REFUSED
        what = f"{_host(answer.url)}, where the Hub keeps this file, refused"
    else:
        kind, what, hint = _BAD_TOKEN if said.startswith("Invalid credentials") else _REFUSALS.get(status, _REFUSED)
    found = " ".join(filter(None, (status, _phrase(answer.status_code), said and f"({said})")))
    return kind(what, subject=origin, found=found, hint=hint)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else ""


@contextmanager
def hub_errors(origin: str) -> Iterator[None]:
    """The failures of huggingface_hub, and of the HTTP libraries below it, as errors about `origin`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"the Hub allows no such name ({error})", subject=origin) from error
    except errors.HfHubHTTPError as error:
        raise refused(error.response, origin) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise refused(error.__cause__.response, origin) from error
        if isinstance(error.__cause__, errors.FileMetadataError):
            raise _nonsense(
                "the commit, the ETag and the size of each file, as headers", str(error.__cause__)
            ) from error
        raise _unreachable(error, origin) from error
    except Exception as error:
        if isinstance(error, OSError) and "Consistency check failed" in str(error):
            raise ContentError(
                "a file came with another size than the Hub promised",
                subject=origin,
                found=_first_line(error),
                hint="run it again, and check whether a proxy answers in the Hub's place",
            ) from error
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise _unreachable(error, origin) from error
        raise


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _unreachable(error: Exception, origin: str) -> TransferError:
    return TransferError(f"the Hub cannot be reached ({error})", subject=origin, hint="check HF_ENDPOINT")
