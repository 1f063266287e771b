"""What senders call things, checked: only what follows the grammars gets into a `Change`.

Distribution specification 1.1, "Pulling manifests"; CloudEvents 1.0.2, "id" and "source".
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from registry.descriptor import digest_of, is_digest
from registry.events.change import Change
from registry.events.payload import refuse
from registry.reference import is_host, is_repository, is_tag

MAX_IDENTITY = 200
"""Characters of an identity; of a longer one the digest is taken."""

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,96}(?:/[A-Za-z0-9._-]{1,96})?")


def artifact(host: str, repository: str, tag: str, digest: str) -> tuple[Change, ...]:
    """The change of a tag; none where there is no tag, or a digest in its place.

    A host is dropped where it is none that a reference can have, a digest where it is not sha256.
    """
    if not tag or ":" in tag:
        return ()
    if not is_repository(repository):
        refuse("the repository", "lower case letters, digits and single . _ - / between them", repository)
    if not is_tag(tag):
        refuse("the tag", "up to 128 letters, digits, '_', '.' and '-'", tag)
    place = f"{host}/{repository}" if is_host(host) else repository
    return (Change("artifact", f"{place}:{tag}", digest=digest if is_digest(digest) else None),)


def place(text: str) -> tuple[str, str]:
    """Host and repository of `[HOST/]REPOSITORY[:TAG|@DIGEST]`; the host is empty where there is none."""
    folder, slash, last = text.partition("@")[0].rpartition("/")
    host, _, rest = (folder + slash + last.partition(":")[0]).partition("/")
    return (host, rest) if is_host(host) and rest else ("", folder + slash + last.partition(":")[0])


def host_of(url: str) -> str:
    """Host and port of a URL; empty where there is none."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def hub(kind: str, name: str, ref: str, revision: str) -> Change:
    """The change of a branch, tag or pull request of a repository of the Hub."""
    if not _NAME.fullmatch(name):
        refuse("the repository", "ORG/NAME", name)
    if not printable(ref) or " " in ref:
        refuse("the ref", "refs/heads/BRANCH or the like", ref)
    if not _COMMIT.fullmatch(revision):
        refuse("the new commit", "40 hexadecimal digits", revision)
    short = ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
    return Change(kind, f"{name}@{short}", revision=revision)


def printable(text: str) -> bool:
    """Whether a text has 1 to 200 characters that can be shown in a line."""
    return 0 < len(text) <= MAX_IDENTITY and text.isprintable()


def identity(*parts: str) -> str | None:
    """What the sender calls a delivery, in parts; None if any part is missing, a digest where it cannot be shown."""
    if not parts or not all(parts):
        return None
    whole = " ".join(parts)
    return whole if printable(whole) else digest_of(whole.encode("utf-8", "surrogatepass"))
