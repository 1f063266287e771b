"""What a model is, by its bytes: one digest of all that steers what it says."""

from __future__ import annotations

from collections.abc import Callable

from formats.checkpoint import Checkpoint
from formats.snapshot import ModelFile, Snapshot
from registry.descriptor import Digest
from registry.descriptor import digest_of as digest_of_bytes
from registry.manifest import encode

_SUFFIXES = frozenset((".md", ".pdf", ".png", ".jpg", ".jpeg", ".svg", ".gif", ".rst"))
_STEMS = frozenset(("license", "licence", "notice", "copying", "readme", "use_policy", "acceptable_use_policy"))
_LOADED = frozenset((".py", ".json", ".jinja"))
"""What a loader may read, whatever it is called."""


def is_document(file: ModelFile) -> bool:
    """Whether a file is for people, as far as its name says: a card, a licence, a picture.

    Other texts are not meant: a `.txt` may be a vocabulary under any name.
    """
    return _stem(file) in _STEMS or (file.suffix in _SUFFIXES and not is_vocabulary(file))


def is_vocabulary(file: ModelFile) -> bool:
    """Whether a file is called as tokenizers call what they read."""
    return _stem(file) in ("vocab", "merges")


def _stem(file: ModelFile) -> str:
    """The name of a file without its folder, in lower case, up to the first dot."""
    return file.name.rpartition("/")[2].partition(".")[0].lower()


def identity(model: Snapshot | Checkpoint, digest_of: Callable[[ModelFile], Digest]) -> Digest:
    """The digest of the names and digests of all files but documents; `digest_of` tells a file's digest.

    The model card has no part in it, since what was measured is written there afterwards. A file that holds tensors
    counts whatever its name; which files do is known of a checkpoint alone.
    """
    snapshot, weights = (model.snapshot, model.weights) if isinstance(model, Checkpoint) else (model, frozenset[str]())

    def steers(file: ModelFile) -> bool:
        return file.name in weights or file.suffix in _LOADED or not is_document(file)

    return digest_of_bytes(encode({file.name: digest_of(file) for file in snapshot.files if steers(file)}))
