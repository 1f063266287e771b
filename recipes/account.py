"""What was done to a model: for the card that travels with it, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recipes.task import Module

_HEADING = "## Quantization"


@dataclass(frozen=True)
class Calibration:
    """The samples that a recipe saw: how many, whence, the digest of their origin and of themselves in their order."""

    origin: str
    digest: str
    samples: int
    chosen: str
    max_length: int
    seed: int


@dataclass(frozen=True)
class Account:
    """How a model was quantized. Sizes are bytes of weight files; `host` and `device` bytes of memory at most.

    `seconds` are those that it took when it was done, which may have been in another build: then `is_new` is False.
    """

    recipe: str
    description: str
    engine: str
    hardware: tuple[str, ...]
    versions: Mapping[str, str]
    kind: str
    calibration: Calibration | None
    modules: tuple[Module, ...]
    before: int
    after: int
    seconds: float
    host: int
    device: int
    is_new: bool

    @property
    def quantized(self) -> tuple[Module, ...]:
        """The modules that were."""
        return tuple(module for module in self.modules if module.is_quantized)

    @property
    def left(self) -> tuple[Module, ...]:
        """The modules that were not."""
        return tuple(module for module in self.modules if not module.is_quantized)

    def reasons(self) -> list[tuple[str, int, str]]:
        """Why modules were left, each with how many and the first of them, the most frequent first."""
        counts = Counter(module.why for module in self.left)
        first = {module.why: module.name for module in reversed(self.left)}
        return [(why, count, first[why]) for why, count in counts.most_common()]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def with_section(card: str, account: Account) -> str:
    """A model card with a section about the quantization at its end."""
    return "\n".join([*([card.rstrip(), ""] if card.strip() else []), *_section(account), ""])


def _section(account: Account) -> Iterator[str]:
    yield _HEADING
    yield ""
    yield f"These weights were quantized by packer with the recipe `{account.recipe}`: {account.description}."
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in _rows(account):
        yield f"| {name} | {cell(value)} |"


def _rows(account: Account) -> Iterator[tuple[str, str]]:
    for scheme, count in Counter(module.scheme for module in account.quantized).most_common():
        yield "Quantized", f"{_modules(count)}: {scheme}"
    for why, count, first in account.reasons():
        yield "Left", f"{_modules(count)}, such as `{first}`: {why}"
    if known := account.calibration:
        yield (
            "Calibrated on",
            f"{known.samples} samples from {known.origin} ({known.digest}), at most {known.max_length} tokens each",
        )
        yield "In this order", f"{known.chosen}, by seed {known.seed}"
    made = ", ".join(f"{name} {version}" for name, version in account.versions.items())
    yield "Made with", f"{made}, on {account.kind}"
    if account.hardware:
        yield "Runs natively on", "; ".join(account.hardware)


def _modules(count: int) -> str:
    return f"{count} module{'' if count == 1 else 's'}"


def cell(text: str) -> str:
    """The text as a cell of a table in Markdown holds it."""
    return text.replace("|", "\\|")
