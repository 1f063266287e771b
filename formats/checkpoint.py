"""A checkpoint: a snapshot that has been read and found valid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import InitVar, dataclass, field

from formats.card import Card
from formats.examine import examine
from formats.findings import Finding, RejectedError, errors
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, WeightFile


@dataclass(frozen=True)
class Checkpoint:
    """A valid model: its files, its tensors, and what it says of itself.

    Constructing one examines the snapshot; a model that is not what it claims, or that brings code without
    `allow_code`, is a `RejectedError`, so a `Checkpoint` in a signature is the proof. `read` are the weight files with
    their tensors in order; `weights` names every file that holds tensors; `findings` are those that only warn.
    """

    snapshot: Snapshot
    allow_code: InitVar[bool] = field(default=False, kw_only=True)
    read: Mapping[ModelFile, WeightFile] = field(init=False, repr=False, compare=False)
    tensors: tuple[TensorInfo, ...] = field(init=False, repr=False)
    weights: frozenset[str] = field(init=False, repr=False)
    card: Card = field(init=False)
    findings: tuple[Finding, ...] = field(init=False, repr=False)

    def __post_init__(self, allow_code: bool) -> None:
        report = examine(self.snapshot, allow_code=allow_code)
        if refusing := errors(report.findings):
            raise RejectedError(*refusing)
        names = frozenset((*(file.name for file in report.read), *(tensor.file for tensor in report.tensors)))
        for name, value in (
            ("read", report.read),
            ("tensors", report.tensors),
            ("weights", names),
            ("card", report.card),
            ("findings", report.findings),
        ):
            object.__setattr__(self, name, value)

    def noted(self, findings: Iterable[Finding]) -> Checkpoint:
        """The same checkpoint with more findings, which do not refuse it."""
        noted = copy(self)
        object.__setattr__(noted, "findings", (*self.findings, *findings))
        return noted
