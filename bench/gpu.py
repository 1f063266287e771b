"""The section of docs/benchmarks.md about a GPU: `python -m bench.gpu FILE` writes it from what tests/gpu/run.py told.

Without a run the section says that there was none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.document import PATH, write_section

TITLE = "On a GPU"
NONE = """There was no run on a GPU yet. On a machine with one, and a Python with torch and transformers, `make gpu`
runs `tests/gpu/run.py` and writes this section. Such a machine needs no network: `make gpu-wheels FOR=3.12` fetches
what it lacks to `.cache/wheels`, for the Python of that version, and that folder travels with the checkout.

The script makes a Llama of 8 billion random weights, quantizes it with `fp8-dynamic`, and one of a billion with
`int8-w8a8` on 16 samples; it holds errors against the scheme's own rounding and logits against the source's, and does
the same with llmcompressor alone. The goal: 16 GB in FP8 in under 60 s.
"""


@dataclass(frozen=True)
class Result:
    """One way of quantizing one model.

    `seconds` are those of the whole command, `host` and `device` its peaks in gigabytes. `steps` is the largest error
    of a weight in halves of a quantization step at its magnitude; none where the recipe changes weights on purpose.
    `divergence` is the mean KL of the source's next tokens from the result's, in nats; `agreement` the share of
    positions at which both find the same token likeliest.
    """

    recipe: str
    model: str
    gigabytes: float
    by: str
    seconds: float
    host: float
    device: float
    steps: float | None
    divergence: float
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "rate": self.gigabytes / self.seconds}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Result:
        """What `to_json` made."""
        return cls(**{key: document[key] for key in cls.__dataclass_fields__})


def table(results: Sequence[Result]) -> str:
    """The results, readable."""
    head = (
        "| recipe | model | by | seconds | GB/s | host GB | device GB | error, half steps | KL, nats | same token |\n"
    )
    return head + "|---|---|---|---|---|---|---|---|---|---|\n" + "".join(map(_line, results))


def _line(result: Result) -> str:
    steps = "" if result.steps is None else f"{result.steps:.3f}"
    cells = [
        result.recipe,
        f"{result.model}, {result.gigabytes:.1f} GB",
        result.by,
        f"{result.seconds:.1f}",
        f"{result.gigabytes / result.seconds:.2f}",
        f"{result.host:.2f}",
        f"{result.device:.2f}",
        steps,
        f"{result.divergence:.4f}",
        f"{result.agreement:.1%}",
    ]
    return f"| {' | '.join(cells)} |\n"


def require_section() -> None:
    """Have the document say that there was no run, if it says nothing."""
    if f"## {TITLE}\n" not in PATH.read_text(encoding="utf-8"):
        write_section(TITLE, NONE)


def write(told: Path, path: Path = PATH) -> None:
    """The section from the JSON lines of a run."""
    machine, *results = map(json.loads, told.read_text(encoding="utf-8").splitlines())
    head = (
        f"Measured by `make gpu` on {machine['date']}, on {machine['device']}, {machine['host']}, with "
        f"{machine['versions']}, from files {machine['place']}. Seconds are those of whole commands, memory is the "
        "peak of all their processes; on the device it is what PyTorch allocated.\n\n"
    )
    write_section(TITLE, head + table(list(map(Result.from_json, results))), path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
