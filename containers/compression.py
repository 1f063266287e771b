"""Compressed layers of other tools, as streams over what they hold; nothing is written and nothing kept.

Gzip (RFC 1952) and Zstandard (RFC 8878), named by the suffix of the media type as OCI, Docker, ModelPack and KitOps
write it. What is compressed is hostile until its digest is checked at its end, so that the bytes it makes, the memory
and the time are bounded on the way (`docs/adr/0013-foreign-layers.md`).
"""

from __future__ import annotations

import io
import sys
import zlib
from typing import BinaryIO, NoReturn, Protocol, cast

from registry.blob import CHUNK
from registry.errors import ContentError

PIECE = 64 << 10
"""Compressed bytes that are decoded at once."""

WINDOW_LOG = 25
"""Zstandard windows are 32 MiB at most: `zstd -20` and the best level of Go's library, half of the 64 MB that a
command may use. RFC 8878 asks a decoder for 8 MiB; `--ultra -22` and `--long` make 128 MiB."""

MAX_RATIO = 200
"""Bytes that one compressed byte may become, over a whole layer and beyond `FREE`."""

FREE = 64 << 20
"""Bytes that any layer may become."""

FREE_FRAMES = 100_000
"""Gzip members or Zstandard frames of any layer; beyond these, one for each `FRAME` compressed bytes."""

FRAME = 1 << 10
"""Fewest bytes that a member or a frame may have on average, so that the making of decoders takes no time."""

_PLAIN = frozenset({"", "json", "yaml"})


def is_compressed(media_type: str) -> bool:
    """Whether `decompressed` would decode a layer of this type."""
    return _split(media_type)[1] in _DECODERS


def is_tar(media_type: str) -> bool:
    """Whether a layer of this type is a tar, when it is decompressed."""
    return _split(media_type)[0].endswith((".tar", "/tar", "/x-tar"))


def decompressed(stream: BinaryIO, media_type: str, size: int, origin: str) -> BinaryIO:
    """The bytes of a layer of `size` bytes without the compression that its type names; `stream` itself if none.

    Reads forward, and ends only when `stream` has ended, so that a verifying stream beneath has checked its digest.
    `ContentError` naming `origin` for an unknown suffix, at once, and while it is read for what is damaged, cut or
    followed by anything but another gzip member or Zstandard frame, and for more than `MAX_RATIO` times `size` and
    `FREE` bytes. Memory is bounded by `CHUNK`, `PIECE` and a window of `WINDOW_LOG`. Closing it closes `stream`.
    """
    suffix = _split(media_type)[1]
    if suffix in _PLAIN:
        return stream
    if suffix not in _DECODERS:
        raise ContentError(
            "layers of this type cannot be read", subject=origin, expected="no suffix, gzip or zstd", found=media_type
        )
    return cast(BinaryIO, io.BufferedReader(_Inflated(stream, suffix, size, origin), CHUNK))


def _split(media_type: str) -> tuple[str, str]:
    """A media type without its parameters and its suffix, and the suffix: what follows the last `+` or `.tar.`."""
    essence = media_type.partition(";")[0].strip().lower()
    base, plus, suffix = essence.rpartition("+")
    if plus:
        return base, suffix
    base, tar, suffix = essence.rpartition(".tar.")
    return (base + ".tar", suffix) if tar else (essence, "")


class _Decoder(Protocol):
    """One gzip member or Zstandard frame, as `compression.zstd.ZstdDecompressor` has it since Python 3.14."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


class _Gzip:
    """One gzip member: zlib with the manners of the Zstandard decoder."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        except zlib.error as error:
            raise ValueError(str(error)) from error


class _Zstd:
    """One Zstandard frame, skippable ones among them, with a window of at most `WINDOW_LOG`."""

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
        else:
            from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
        self._inner = ZstdDecompressor(options={DecompressionParameter.window_log_max: WINDOW_LOG})
        self._error = ZstdError

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._inner.decompress(data, max_length)
        except self._error as error:
            raise ValueError(str(error)) from error


_DECODERS: dict[str, type[_Gzip | _Zstd]] = {"gzip": _Gzip, "zstd": _Zstd}


class _Inflated(io.RawIOBase):
    """The bytes of all members or frames of a stream, one after another."""

    def __init__(self, stream: BinaryIO, suffix: str, size: int, origin: str) -> None:
        super().__init__()
        self._stream, self._suffix, self._origin = stream, suffix, origin
        self._most, self._made = MAX_RATIO * size + FREE, 0
        self._most_frames, self._frames = FREE_FRAMES + size // FRAME, 0
        self._decoder: _Decoder | None = None
        self._input = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._next(len(view)) if view else b""
        self._made += len(data)
        if self._made > self._most:
            self._refuse(
                f"a layer decompresses to more than {self._most} bytes", f"{MAX_RATIO} times its own size and {FREE}"
            )
        view[: len(data)] = data
        return len(data)

    def _next(self, limit: int) -> bytes:
        """At least one and at most `limit` bytes; none at the end of the stream."""
        while True:
            if not self._input and (self._decoder is None or self._decoder.needs_input):
                self._input = self._stream.read(PIECE)
            if self._decoder is None:
                if not self._input and self._frames:
                    return b""
                self._decoder = self._begun()
            if data := self._decoded(self._decoder, limit):
                return data

    def _begun(self) -> _Decoder:
        self._frames += 1
        if self._frames > self._most_frames:
            self._refuse(f"a layer has more than {self._most_frames} {self._suffix} frames", "fewer and larger ones")
        return _DECODERS[self._suffix]()

    def _decoded(self, decoder: _Decoder, limit: int) -> bytes:
        was_last = decoder.needs_input and not self._input
        try:
            data = decoder.decompress(self._input, limit)
        except ValueError as error:
            self._refuse(f"a compressed layer is damaged, or followed by something else ({error})", self._suffix)
        self._input = b""
        if decoder.eof:
            self._input, self._decoder = decoder.unused_data, None
        elif was_last and not data:
            self._refuse("a compressed layer is truncated", f"a whole {self._suffix} stream")
        return data

    def _refuse(self, what: str, expected: str) -> NoReturn:
        raise ContentError(what, subject=self._origin, expected=expected)

    def close(self) -> None:
        self._stream.close()
        super().close()
