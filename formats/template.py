"""Chat templates: Jinja programs that come with a model, judged in a child process that cannot hang or grow.

The child is `python -m formats.template`: a JSON list of templates on its standard input; on its standard output a line
when it is ready, and then one JSON line for each template. Each is parsed as transformers does, searched for what a
sandbox refuses, also in branches that are not taken, and then rendered for two conversations.
https://jinja.palletsprojects.com/en/stable/sandbox/
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from formats.text import printable
from registry.errors import PackerError

MAX_TEMPLATE = 256 << 10
"""Characters of a template; those of models have some thousands."""

MAX_TEMPLATES = 64
"""Templates of a model that are looked at."""

_SECONDS = 2
_MEMORY = 64 << 20
_WALL_CLOCK = 60.0
_SAID = 500
_READY = b"ready"
_ATTRIBUTES = frozenset(("attr", "groupby", "map", "max", "min", "rejectattr", "selectattr", "sort", "sum", "unique"))
"""Filters whose arguments name attributes."""

_DUNDER = re.compile(r"(^|\.)__")
_FORMAT_DUNDER = re.compile(r"\{[^{}]*__")
_TOOL = {
    "type": "function",
    "function": {"name": "clock", "description": "The time.", "parameters": {"type": "object"}},
}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "clock", "arguments": {}}}
_TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "You are an assistant."},
    {"role": "user", "content": "Good morning."},
    {"role": "assistant", "content": "Good morning. How can I help?"},
    {"role": "user", "content": "What is the time?"},
]
CONVERSATIONS: tuple[dict[str, Any], ...] = (
    {"messages": _TALK, "add_generation_prompt": True, "tools": None},
    {
        "messages": [
            *_TALK,
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "name": "clock", "tool_call_id": "call00001", "content": "noon"},
        ],
        "add_generation_prompt": False,
        "tools": [_TOOL],
    },
)
"""What every template is rendered with: a plain conversation, and one that calls a tool."""


class Fault(Enum):
    """What can be wrong with a template."""

    SYNTAX = "syntax"
    UNSAFE = "unsafe"
    ENDLESS = "endless"


class Verdict(NamedTuple):
    """What is wrong with a template, if anything, and the words for it."""

    fault: Fault | None
    detail: str


def judge(templates: Sequence[str]) -> list[Verdict]:
    """A verdict for each template, within two seconds and 64 MiB for all of them together.

    `PackerError` if the process that judges them does not start.
    """
    short = [text if len(text) <= MAX_TEMPLATE else None for text in templates]
    lines = iter(_child([text for text in short[:MAX_TEMPLATES] if text is not None]))
    return [_verdict(text, lines) for text in short]


def _verdict(text: str | None, lines: Iterator[list[str]]) -> Verdict:
    if text is None:
        return Verdict(Fault.ENDLESS, f"more than {MAX_TEMPLATE} characters")
    fault, detail = next(lines, (Fault.ENDLESS.value, f"no verdict after {_SECONDS} s"))
    return Verdict(Fault(fault) if fault else None, detail)


def _child(templates: list[str]) -> list[list[str]]:
    if not templates:
        return []
    lines = []
    with contextlib.suppress(ValueError):
        for line in _said(json.dumps(templates).encode()):
            lines.append(json.loads(line))
    return lines


def _said(given: bytes) -> list[bytes]:
    """The lines that the child wrote once it was ready; `PackerError` if it ended before, which no template can do."""
    command = [sys.executable, "-P", "-m", "formats.template"]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, env=_surroundings(), timeout=_WALL_CLOCK, check=False
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").splitlines()[1:]
    first, *lines = done.stdout.splitlines() or [b""]
    if first != _READY and done.returncode >= 0:
        raise PackerError(
            "the process that judges chat templates did not start",
            subject=sys.executable,
            expected=" ".join(command[1:]),
            found=_last_line(done.stderr) or f"exit {done.returncode}",
            hint="see whether the modules of this program can be imported by that interpreter",
        )
    return lines


def _last_line(raw: bytes) -> str:
    return printable(raw.decode(errors="replace").strip().rpartition("\n")[2][:_SAID])


def _surroundings() -> dict[str, str]:
    """The environment of the child: nothing of ours, and modules from where this process has them."""
    found = (str(Path(path).absolute()) for path in sys.path if path)
    return {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(found)}


def _main() -> None:
    templates = json.load(sys.stdin)
    environment = _environment()
    _limit()
    print(_READY.decode(), flush=True)  # noqa: T201 - the answer to the parent
    for text in templates:
        print(json.dumps(_judge(environment, text)), flush=True)  # noqa: T201 - the answer to the parent


def _limit() -> None:
    """Bound the rest of this process; where a bound cannot be set, the parent's clock is left."""
    import resource

    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_CPU, math.ceil(time.process_time() + _SECONDS / 2))
    with contextlib.suppress(ValueError, OSError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _bound(resource.RLIMIT_AS, used + _MEMORY)


def _bound(kind: int, wanted: int) -> None:
    """Set both limits of a resource, no higher than the hard one is already."""
    import resource

    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(kind)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (most, most))


def _judge(environment: Any, text: str) -> tuple[str, str]:
    """The value of a `Fault`, or an empty text, and the detail."""
    from jinja2.exceptions import TemplateSyntaxError

    try:
        if found := next(_forbidden(environment.parse(text)), None):
            return Fault.UNSAFE.value, found
        return _render(environment.from_string(text))
    except TemplateSyntaxError as error:
        return Fault.SYNTAX.value, f"line {error.lineno}: {error.message}"[:_SAID]
    except MemoryError:
        return Fault.ENDLESS.value, f"more than {_MEMORY >> 20} MiB"
    except Exception as error:  # noqa: BLE001 - a compiler raises anything: RecursionError, SyntaxError, OverflowError
        return Fault.SYNTAX.value, f"{type(error).__name__}: {error}"[:_SAID]


def _render(template: Any) -> tuple[str, str]:
    from jinja2.exceptions import SecurityError

    for conversation in CONVERSATIONS:
        try:
            for _ in template.generate(**_SPECIAL_TOKENS, **conversation):
                pass
        except SecurityError as error:
            return Fault.UNSAFE.value, str(error)[:_SAID]
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112 - a template may refuse a conversation, or stumble over ours
            continue
    return "", ""


_SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def _forbidden(tree: Any) -> Iterator[str]:
    """What a sandbox refuses, wherever in the template it stands; no recursion, since templates may be deep."""
    from jinja2 import nodes

    waiting = [tree]
    while waiting:
        node = waiting.pop()
        waiting.extend(node.iter_child_nodes())
        match node:
            case nodes.Getattr() if node.attr.startswith("_"):
                yield f"line {node.lineno}: the attribute {node.attr[:80]!r}"
            case nodes.Getattr() if node.attr in ("format", "format_map") and _FORMAT_DUNDER.search(_text(node.node)):
                yield f"line {node.lineno}: the format {_text(node.node)[:80]!r}"
            case nodes.Getitem() if _text(node.arg).startswith("__"):
                yield f"line {node.lineno}: the attribute {_text(node.arg)[:80]!r}"
            case nodes.NSRef() if node.attr.startswith("_"):
                yield f"line {node.lineno}: the attribute {node.attr[:80]!r}"
            case nodes.Filter() if name := _private_argument(node):
                yield f"line {node.lineno}: the attribute {name[:80]!r}"


def _private_argument(node: Any) -> str:
    """The first argument of a filter that is the name of a private attribute, if the filter takes such names."""
    given = [pair.value for pair in node.kwargs if pair.key == "attribute"]
    given += node.args if node.name in _ATTRIBUTES else []
    return next((name for name in map(_text, given) if _DUNDER.search(name) or name.startswith("_")), "")


def _text(node: Any) -> str:
    """The text that an expression of constants makes, as far as it is a text; only joined ones are computed."""
    from jinja2 import nodes

    parts, waiting = [], [node]
    while waiting:
        match waiting.pop():
            case nodes.Const(value=str(value)):
                parts.append(value)
            case nodes.Concat(nodes=joined):
                waiting.extend(reversed(joined))
            case nodes.Add(left=left, right=right):
                waiting.extend((right, left))
            case _:
                parts.append("\0")
    return "".join(parts)


def _environment() -> Any:
    """Jinja as transformers sets it up (`transformers.utils.chat_template_utils`)."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: what the assistant says, which only training asks for."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

        def said(self, caller: Callable[[], str]) -> str:
            return caller()

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


def _to_json(value: object, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return time.strftime(form)


if __name__ == "__main__":
    _main()
