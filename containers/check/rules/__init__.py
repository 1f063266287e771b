"""Every rule that `packer check` knows, one module for each kind of reader. `docs/check.md` is made from here."""

from __future__ import annotations

from importlib import import_module

from containers.check.verdicts import Rule

KINDS = ("images", "kserve", "files", "models")
"""The modules, in the order of the documentation."""


def rules(kind: str) -> tuple[Rule, ...]:
    """The rules of one kind in the order in which its module states them."""
    return tuple(value for value in vars(import_module(f"{__name__}.{kind}")).values() if isinstance(value, Rule))
