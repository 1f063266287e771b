"""Filters of Tekton's CEL interceptor, evaluated by another's interpreter, in an environment of its own.

The functions that Tekton adds are made here after their documentation: `canonical`, `compareSecret`. One that fails
says no, as it does in Tekton.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.parts.command import run

_SCRIPT = """
import json, sys
import celpy
from celpy import celtypes

def verdict(asked):
    def canonical(header, name):
        values = {str(key).lower(): value for key, value in header.items()}.get(str(name).lower(), [""])
        return celtypes.StringType(values[0])

    def compare_secret(text, key, secret):
        return celtypes.BoolType(asked["secrets"][str(secret)][str(key)] == str(text))

    environment = celpy.Environment()
    functions = {"canonical": canonical, "compareSecret": compare_secret}
    program = environment.program(environment.compile(asked["filter"]), functions=functions)
    values = {name: celpy.json_to_cel(asked[name]) for name in ("header", "body")}
    try:
        return bool(program.evaluate(values))
    except celpy.CELEvalError:
        return False

print(json.dumps([verdict(asked) for asked in json.load(sys.stdin)]))
"""


def verdicts(clients: Path, asked: Sequence[dict[str, Any]]) -> list[bool]:
    """What each filter says of an event: {"filter", "header", "body", "secrets"}."""
    done = run(clients / "cel/bin/python", "-c", _SCRIPT, input=json.dumps(asked))
    return [bool(verdict) for verdict in json.loads(done.stdout)]
