"""The members of tar layers, from their headers: what a runtime will find, for the price of some kilobytes.

All layers of an artifact share one `Purse`, so that an artifact costs a bounded number of requests and bytes, however
many layers it has and whatever their headers say.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import BinaryIO, cast

from containers.check.media import compression, is_tar
from containers.compression import decompressed
from containers.tar import Kind, NotTarError, Walked, walk_members
from formats.examine import READERS
from registry.blob import CHUNK
from registry.descriptor import Descriptor, Digest
from registry.errors import ContentError, ResponseError
from registry.store import Source

MAX_LAYERS = 500
"""Tar layers of an artifact whose headers are read: no runtime stacks more."""

MAX_MEMBERS = 20_000
"""Members of all layers of an artifact together."""

MAX_HEADERS = 32 << 20
"""Bytes of headers of all layers together."""

MAX_PACKED = 64 << 20
"""Bytes of compressed layers that are fetched, all together: their headers stand between what they hold."""

MAX_UNPACKED = 512 << 20
"""Bytes that these may become."""

_ENDLESS = 1 << 62
_DEPTH = 64
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True)
class Listing:
    """The members of one layer, in its order; `gap` says why there may be more, and is empty if there are not.

    `is_tar` is false where the layer's type says that it is one, and it does not begin like one.
    """

    members: tuple[Walked, ...] = ()
    gap: str = ""
    is_tar: bool = True


class Purse:
    """What reading the headers of one artifact may still cost; several threads take from it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._left = {
            "members": MAX_MEMBERS,
            "bytes of headers": MAX_HEADERS,
            "bytes of compressed layers": MAX_PACKED,
            "bytes of what these hold": MAX_UNPACKED,
        }

    def take(self, what: str, count: int) -> None:
        """Spend `count`; `ContentError` if there is not so much left."""
        with self._lock:
            self._left[what] -= count
            if self._left[what] < 0:
                self._left[what] += count
                raise ContentError(f"more {what} than packer check reads")


def list_layers(layers: Iterable[Descriptor], source: Source) -> dict[Digest, Listing]:
    """The members of each tar among the layers, by its digest."""
    unique = list({layer.digest: layer for layer in layers if is_tar(layer.media_type)}.values())
    purse = Purse()
    with ThreadPoolExecutor(READERS) as pool:
        listings = pool.map(lambda layer: _listing(layer, source, purse), unique[:MAX_LAYERS])
        found = dict(zip((layer.digest for layer in unique), listings, strict=False))
    return found | {layer.digest: Listing(gap="more layers than packer check reads") for layer in unique[MAX_LAYERS:]}


def _listing(layer: Descriptor, source: Source, purse: Purse) -> Listing:
    found: list[Walked] = []
    try:
        found.extend(_members(layer, source, purse))
    except (ContentError, ResponseError) as error:
        if isinstance(error, ResponseError) and error.status:
            raise
        return Listing(tuple(found), error.what, bool(found) or not isinstance(error, NotTarError))
    return Listing(tuple(found))


def _members(layer: Descriptor, source: Source, purse: Purse) -> Iterator[Walked]:
    packed = bool(compression(layer.media_type))
    if packed:
        purse.take("bytes of compressed layers", layer.size)
    with closing(_unpacked(layer, source, purse) if packed else source.ranged(layer).open()) as stream:
        end = 0
        for member in walk_members(stream, layer.digest, _ENDLESS if packed else layer.size):
            purse.take("members", 1)
            purse.take("bytes of headers", max(member.start - end, 0))
            end = member.start + member.size
            yield member


def _unpacked(layer: Descriptor, source: Source, purse: Purse) -> BinaryIO:
    kind = layer.media_type.removesuffix("-fastest")
    return cast(BinaryIO, _Forward(decompressed(source.blob(layer).open(), kind, layer.size, layer.digest), purse))


class _Forward(io.RawIOBase):
    """A stream that only reads, with `tell` and seeks forward."""

    def __init__(self, stream: BinaryIO, purse: Purse) -> None:
        super().__init__()
        self._stream, self._purse, self._position = stream, purse, 0

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(size)
        self._purse.take("bytes of what these hold", len(piece))
        self._position += len(piece)
        return piece

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        while self._position < offset and self.read(min(offset - self._position, CHUNK)):
            pass
        return self._position

    def close(self) -> None:
        self._stream.close()
        super().close()


def clean(name: str) -> str:
    """A member's name as a runtime takes it: without `./`, a leading or a final slash."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def merged(listings: Sequence[Listing]) -> dict[str, Walked]:
    """What layers make, one laid over the other, by paths: a later member replaces, and whiteouts remove.

    Image specification, `layer.md`. Read from the last layer to the first, so that each member is met once.
    """
    tree: dict[str, Walked] = {}
    gone, emptied = set[str](), set[str]()
    for listing in reversed(listings):
        layer = {clean(member.name): member for member in listing.members}
        kept = {path: member for path, member in layer.items() if not _is_hidden(path, tree, gone, emptied)}
        for path in kept:
            folder, slash, name = path.rpartition("/")
            if name == _OPAQUE:
                emptied.add(folder)
            elif name.startswith(_WHITEOUT):
                gone.add(folder + slash + name.removeprefix(_WHITEOUT))
        tree |= {path: member for path, member in kept.items() if not is_whiteout(path)}
        emptied |= {path for path, member in kept.items() if member.kind is not Kind.FOLDER}
    return tree


def _is_hidden(path: str, tree: dict[str, Walked], gone: set[str], emptied: set[str]) -> bool:
    if path in tree or path in gone:
        return True
    above = path
    for _ in range(_DEPTH):
        above = above.rpartition("/")[0]
        if above in gone or above in emptied:
            return True
        if not above:
            return False
    return False


def is_whiteout(path: str) -> bool:
    """Whether a path says that something is gone."""
    return path.rpartition("/")[2].startswith(_WHITEOUT)
