"""The memory that a server takes, estimated from the model, with the arithmetic.

What is added up, in bytes:

- weights: the files, shared by the GPUs;
- KV cache: tokens x layers x values of a token in a layer x 2, since runtimes keep them in 16 bits. Where a layer keeps
  less (a sliding window, a state space), this is too much. GPUs share heads, and each has one at least;
- activations: tokens of a step x (2 x hidden + 2 x intermediate) x 2, in the widest place of a layer, and the logits of
  the sequences of a step, in 32 bits and twice;
- the runtime: its code, its libraries, the contexts and graphs of a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from containers.manifests.model import Model, Sizes
from containers.manifests.quantity import GI, human
from registry.errors import UsageError

STEP_TOKENS, STEP_SEQUENCES = 8192, 256
"""Of a step at most, as vLLM 0.29 has them on large GPUs; others take fewer."""

CACHE = "KV cache"
CACHE_BYTES = 2
"""Of a value in the KV cache."""

USABLE = 0.9
"""Of a GPU's memory, the share that runtimes take."""


@dataclass(frozen=True)
class Footprint:
    """What a runtime takes for itself: bytes of each GPU, bytes of the host, and what a step may hold.

    Without GPUs the KV cache is a multiple of `cache_unit` bytes.
    """

    device: int
    host: int
    step_tokens: int = STEP_TOKENS
    step_sequences: int = STEP_SEQUENCES
    cache_unit: int = 1


@dataclass(frozen=True)
class Term:
    """One thing that takes memory: what it is, how its size comes about, and the bytes."""

    what: str
    arithmetic: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.what:<12} {human(self.bytes):>10}  {self.arithmetic}"


@dataclass(frozen=True)
class Estimate:
    """The terms of each GPU, or of the server where there is none; those of the host; and the tokens of a sequence.

    `length` is 0 where it is not known. `available` are the bytes that one GPU, or the server, is said to have.
    """

    gpus: int
    length: int
    terms: tuple[Term, ...]
    host_terms: tuple[Term, ...]
    available: int | None

    @property
    def needed(self) -> int:
        """Bytes of each GPU, or of the server where there is none."""
        return _sum(self.terms)

    @property
    def cache(self) -> int:
        """Bytes of the KV cache."""
        return _sum(term for term in self.terms if term.what == CACHE)

    @property
    def host(self) -> int:
        """Bytes of the host's memory that the server takes."""
        return _sum(self.host_terms) if self.gpus else self.needed

    def explain(self) -> list[str]:
        """The arithmetic, line by line."""
        place = f"each of {self.gpus} GPUs" if self.gpus > 1 else "the GPU" if self.gpus else "the server"
        lines = [
            f"memory of {place}:",
            *(f"  {term}" for term in self.terms),
            f"  {'together':<12} {human(self.needed):>10}",
        ]
        if self.available:
            share = f"{USABLE:.0%} of " if self.gpus else ""
            lines.append(f"  {'there':<12} {human(self.available):>10}  {share}which may be used")
        if self.gpus:
            lines += ["memory of the host:", *(f"  {term}" for term in self.host_terms)]
            lines.append(f"  {'together':<12} {human(self.host):>10}")
        return lines


def estimate(
    model: Model, footprint: Footprint, gpus: int, length: int | None, sequences: int, available: int | None
) -> Estimate:
    """What a server of `model` takes; the length is the model's own, or `length`, or what fits into `available` bytes.

    `UsageError` if not even a short sequence fits, or the length that was asked for does not, or the model has not so
    many places.
    """
    sizes = model.sizes
    if length and sizes and 0 < sizes.length < length:
        raise UsageError("the model is not made for such sequences", expected=f"{sizes.length} tokens", found=length)
    fixed = [_weights(model, gpus), *_activations(model, footprint, gpus), _runtime(footprint, gpus)]
    most = int(available * (USABLE if gpus else 1)) if available else None
    each = _of_token(sizes, gpus) * sequences if sizes else 0
    own = length or (sizes.length if sizes else 0)
    unit = 1 if gpus else footprint.cache_unit
    fits = own if most is None else _fitting(each, (most - _sum(fixed)) // unit * unit, own)
    if fits < (length or min(own, SHORTEST)) or (most is not None and _sum(fixed) > most):
        raise _too_small(fixed, each * min(own, length or SHORTEST), most or 0, gpus)
    cache = [_cache(sizes, fits * sequences, unit, gpus)] if sizes and fits else []
    return Estimate(gpus, fits, (fixed[0], *cache, *fixed[1:]), _host(model, footprint, gpus), available)


SHORTEST = 512
"""Tokens: a server of shorter sequences is of no use."""

_STEP = 256
"""A length that was cut is a multiple of so many tokens."""


def _fitting(each: int, left: int, own: int) -> int:
    """The tokens of a sequence, `own` at most, of which `each` takes so many of the bytes that are `left`."""
    return own if each * own <= left else max(left // each // _STEP * _STEP, 0)


def _weights(model: Model, gpus: int) -> Term:
    size = sum(model.weights.values())
    shared = f" / {gpus} GPUs" if gpus > 1 else ""
    return Term("weights", f"{size:,} B{shared}", -(-size // max(gpus, 1)))


def _of_token(sizes: Sizes, gpus: int) -> int:
    """Bytes of the KV cache for one token, on each GPU."""
    return -(-sizes.layers * sizes.cached * CACHE_BYTES // _sharing(sizes, gpus))


def _sharing(sizes: Sizes, gpus: int) -> int:
    """The GPUs that share the cache: no head is split."""
    return min(max(gpus, 1), sizes.heads)


def _cache(sizes: Sizes, tokens: int, unit: int, gpus: int) -> Term:
    sharing = _sharing(sizes, gpus)
    shared = f" / {sharing} GPUs" if sharing > 1 else ""
    words = f"{tokens:,} tokens x {sizes.layers} layers x {sizes.cached:,} values x {CACHE_BYTES} B{shared}"
    size = -(-_of_token(sizes, gpus) * tokens // unit) * unit
    return Term(CACHE, words + (f", up to whole {human(unit)}" if unit > 1 else ""), size)


def _activations(model: Model, footprint: Footprint, gpus: int) -> list[Term]:
    sizes = model.sizes
    if not sizes:
        return [Term("activations", "not known: as much as the weights", sum(model.weights.values()))]
    tokens, sequences, share = footprint.step_tokens, footprint.step_sequences, max(gpus, 1)
    wide = 2 * sizes.hidden + 2 * sizes.intermediate // share
    shared = f" / {gpus} GPUs" if gpus > 1 else ""
    return [
        Term(
            "activations",
            f"{tokens:,} tokens x (2 x {sizes.hidden:,} + 2 x {sizes.intermediate:,}{shared}) x 2 B",
            tokens * wide * 2,
        ),
        Term(
            "logits",
            f"{sequences} sequences x {sizes.vocabulary:,} words x 4 B x 2",
            sequences * sizes.vocabulary * 8,
        ),
    ]


def _runtime(footprint: Footprint, gpus: int) -> Term:
    return Term("runtime", "contexts, graphs, libraries", footprint.device if gpus else footprint.host)


def _host(model: Model, footprint: Footprint, gpus: int) -> tuple[Term, ...]:
    """With GPUs: a process for each, and the largest file, which is read on its way to them."""
    if not gpus:
        return ()
    largest = max(model.weights.values(), default=0)
    processes = gpus + 1 if gpus > 1 else 1
    shared = [Term("shared", "what GPUs tell each other, in memory", SHARED_MEMORY)] if gpus > 1 else []
    return (
        Term("runtime", f"{human(footprint.host)} x {processes}, the processes", footprint.host * processes),
        Term("loading", f"{largest:,} B, the largest weight file", largest),
        *shared,
    )


def _sum(terms: Iterable[Term]) -> int:
    return sum(term.bytes for term in terms)


SHARED_MEMORY = 2 * GI
"""Bytes of /dev/shm, where several GPUs serve one model."""


def _too_small(fixed: Sequence[Term], cache: int, most: int, gpus: int) -> UsageError:
    needed = _sum(fixed) + cache
    return UsageError(
        "the model does not fit into this memory",
        expected=f"{human(needed)} at least, {human(cache)} of it for the KV cache",
        found=human(most) + (f" that may be used of {'each' if gpus > 1 else 'the'} GPU" if gpus else ""),
        hint="give more GPUs (--gpu) or memory (--memory), ask for shorter sequences, or quantize the model further",
    )
