"""Stands for kubectl and the cluster behind it, which no test machine has: it judges what is applied, and remembers it.

It knows what the pages of `docs/consume` use: `apply` and `delete` with `-f`, and `rollout status` and `wait` for what
has been applied. The file that APPLIED names holds kinds, names and labels.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.parts.kubernetes import NEWEST, judge

STATE = Path(os.environ["APPLIED"])


def main(words: list[str]) -> None:
    """Do what the command line says; `AssertionError` for anything that a cluster would not do."""
    known = [tuple(each) for each in json.loads(STATE.read_text())] if STATE.exists() else []
    match words:
        case ["apply", "-f", path]:
            known += [_apply(document) for document in yaml.safe_load_all(Path(path).read_text())]
        case ["delete", "-f", path]:
            gone = [_named(document) for document in yaml.safe_load_all(Path(path).read_text())]
            assert set(gone) <= set(known), gone
            known = [each for each in known if each not in gone]
        case ["rollout", "status", what]:
            _find(known, *what.split("/"))
        case ["wait", condition, kind, "--selector", label]:
            assert condition == "--for=condition=complete"
            assert any(each[0] == kind and label == f"app.kubernetes.io/name={each[2]}" for each in known), known
        case ["wait", "--for=condition=Ready", what]:
            _find(known, *what.split("/"))
        case _:
            raise AssertionError(words)
    STATE.write_text(json.dumps(known))


def _apply(document: dict[str, Any]) -> tuple[str, str, str]:
    judge(document, NEWEST)
    return _named(document)


def _named(document: dict[str, Any]) -> tuple[str, str, str]:
    """Kind, name, and the label that says which model it is for."""
    head = document["metadata"]
    return document["kind"].lower(), head["name"], head["labels"].get("app.kubernetes.io/name", "")


def _find(known: list[tuple[str, ...]], kind: str, name: str) -> None:
    assert any(each[:2] == (kind, name) for each in known), (kind, name, known)


if __name__ == "__main__":
    main(sys.argv[1:])
