"""Code that comes with a model: files, what configurations import, and chat templates that leave their sandbox."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.exceptions import SecurityError
from transformers.utils import chat_template_utils

from formats import template
from formats.code import MAX_VALUES, find_code
from formats.document import MAX_CONFIG
from formats.findings import Finding
from formats.template import CONVERSATIONS, MAX_TEMPLATE, Fault, judge
from packer.sources import parse_source
from registry.errors import PackerError
from tests.parts import tiny

GOOD_TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + m['content'] + '<|im_end|>' }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content | trim }}{% endgeneration %}{% endfor %}",
    "loop-controls": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}",
    "functions": "{{ strftime_now('%d %b %Y') }}{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}",
    "tools": "{% for t in tools or [] %}{{ t | tojson(indent=4) }}{% endfor %}{{ messages[0].content.split('x')[-1] }}",
    "filters": "{{ messages | map(attribute='role') | join('__') }}{{ messages | selectattr('role') | list | length }}",
    "underscores": "{{ messages[0]['_hidden'] }}{{ 'a' | replace('__', '') }}{{ '{} {a}'.format(1, a='__x__') }}",
    "raises": "{{ raise_exception('Only user and assistant roles are supported!') }}",
    "stumbles": "{{ nothing.at.all }}{{ 1 + 'a' }}{{ 1 / 0 }}",
}

UNSAFE_TEMPLATES = {
    "attribute": "{{ ''.__class__.__mro__ }}",
    "single": "{{ messages._fields }}",
    "branch": "{% if messages[0].content == 'sesame' %}{{ cycler.__init__.__globals__.os }}{% endif %}",
    "item": "{{ cycler['__init__']['__globals__'] }}",
    "escaped": "{{ cycler['\\x5f_init__'] }}",
    "joined": "{{ cycler['__in' ~ 'it__'] }}",
    "added": "{{ cycler['_' + '_in' + 'it__'] }}",
    "attr-filter": "{{ '' | attr('__class__') }}",
    "map-filter": "{{ messages | map(attribute='role.__class__') | list }}",
    "groupby-filter": "{{ messages | groupby('__class__') }}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "computed": "{% set a = ['__', 'init__'] | join %}{{ cycler[a][a].x }}",
    "changes": "{{ messages.append(1) }}",
    "namespace": "{% set ns = namespace() %}{% set ns._x = 1 %}",
}

MALFORMED_TEMPLATES = {
    "tag": "{% for %}",
    "unclosed": "{% if messages %}",
    "no-filter": "{{ 1 | nofilter }}",
    "no-tag": "{% shell %}",
    "deep": "{{ " + "(" * 20_000 + ")" * 20_000 + " }}",
}

ENDLESS_TEMPLATES = {
    "loops": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "power": "{{ 9 ** (9 ** 9) }}",
    "text": "{{ 'a' * 10 ** 10 }}",
    "filter": "{{ 'a' | center(10 ** 10) }}",
    "long": "a" * (MAX_TEMPLATE + 1),
}


def find(folder: Path, files: dict[str, Any], **templates: str) -> list[Finding]:
    written = {name: data if isinstance(data, bytes) else json.dumps(data).encode() for name, data in files.items()}
    snapshot = parse_source(str(tiny.write_folder(folder, {"model.safetensors": tiny.GOOD, **written}))).fetch()
    return list(find_code(snapshot, templates))


def ids(findings: list[Finding]) -> list[str]:
    return [finding.rule.id for finding in findings]


def test_a_model_without_code(safetensors_model: Path) -> None:
    assert list(find_code(parse_source(str(safetensors_model)).fetch())) == []


def test_good_templates_pass_together() -> None:
    assert [verdict.fault for verdict in judge(list(GOOD_TEMPLATES.values()))] == [None] * len(GOOD_TEMPLATES)


def test_the_environment_does_not_steer_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    test_good_templates_pass_together()


def test_the_child_finds_its_modules_where_this_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without the installed packages, as where the program is found by PYTHONPATH."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    monkeypatch.chdir(tmp_path)
    test_good_templates_pass_together()


def test_a_child_that_does_not_start_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PackerError, match="did not start") as caught:
        judge(["a"])
    assert (caught.value.exit_code, caught.value.found) == (1, "exit 1")


def test_a_limit_that_is_lower_already_does_not_lift_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is played here, since it lets the administrator, who may run this, raise every limit."""
    set_to: dict[int, int] = {}

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        if limits[1] > 1 and kind == resource.RLIMIT_CPU:
            raise ValueError("not allowed to raise maximum limit")
        set_to[kind] = limits[1]

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1, 1) if kind == resource.RLIMIT_CPU else (-1, -1))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    template._limit()
    assert (set_to[resource.RLIMIT_CORE], set_to[resource.RLIMIT_CPU]) == (0, 1)
    assert set_to[resource.RLIMIT_AS] > template._MEMORY


@pytest.mark.parametrize("name", UNSAFE_TEMPLATES)
def test_unsafe_templates(name: str) -> None:
    assert judge([UNSAFE_TEMPLATES[name]])[0].fault is Fault.UNSAFE


@pytest.mark.parametrize("name", MALFORMED_TEMPLATES)
def test_malformed_templates(name: str) -> None:
    assert judge([MALFORMED_TEMPLATES[name]])[0].fault is Fault.SYNTAX


@pytest.mark.parametrize("name", ENDLESS_TEMPLATES)
def test_endless_templates(name: str) -> None:
    assert judge([ENDLESS_TEMPLATES[name]])[0].fault is Fault.ENDLESS


def test_a_verdict_before_an_endless_template_is_kept() -> None:
    assert [verdict.fault for verdict in judge(["a", "{% for %}", ENDLESS_TEMPLATES["loops"]])] == [
        None,
        Fault.SYNTAX,
        Fault.ENDLESS,
    ]


@pytest.mark.parametrize("name", [*GOOD_TEMPLATES, *UNSAFE_TEMPLATES, *list(MALFORMED_TEMPLATES)[:-1]])
def test_what_transformers_refuses_is_refused(name: str) -> None:
    """What transformers does not reach, such as the branch, or leaves empty, is refused here alone."""
    text = {**GOOD_TEMPLATES, **UNSAFE_TEMPLATES, **MALFORMED_TEMPLATES}[name]
    ours = judge([text])[0].fault
    try:
        template = chat_template_utils._compile_jinja_template(text)
        for conversation in CONVERSATIONS:
            template.render(**conversation)
    except SecurityError:
        assert ours is Fault.UNSAFE
    except jinja2.TemplateSyntaxError:
        assert ours is Fault.SYNTAX
    except Exception:  # noqa: BLE001 - a template that merely fails
        assert ours is None
    else:
        assert ours in (None, Fault.UNSAFE)


def test_where_templates_are_kept(tmp_path: Path) -> None:
    bad = UNSAFE_TEMPLATES["attribute"]
    files = {
        "chat_template.jinja": bad.encode(),
        "additional_chat_templates/tool_use.jinja": bad.encode(),
        "tokenizer_config.json": {
            "chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": bad}]
        },
        "sub/tokenizer_config.json": {"chat_template": bad},
        "chat_template.json": {"chat_template": {"default": bad}},
        "processor_config.json": {"chat_template": 3},
    }
    findings = find(tmp_path, files, **{"model.gguf": bad, "good.gguf": "a"})
    assert set(ids(findings)) == {"code-template-unsafe"}
    assert sorted(finding.file for finding in findings) == sorted(
        (set(files) - {"processor_config.json"}) | {"model.gguf"}
    )
    assert any("'rag'" in finding.found for finding in findings)
    assert all(finding.refuses for finding in findings)


def test_a_template_that_is_no_utf8(tmp_path: Path) -> None:
    assert ids(find(tmp_path, {"chat_template.jinja": b"\xff"})) == ["code-template-syntax"]
    assert ids(find(tmp_path, {"chat_template.jinja": bytes(4 * MAX_TEMPLATE + 1)})) == ["code-template-endless"]


AUTO_MAPS = {
    "own": ({"AutoModel": "modeling_x.Model"}, "AutoModel: modeling_x.Model"),
    "elsewhere": ({"AutoModel": "evil/repo--modeling.Model"}, "modeling.Model from the repository evil/repo"),
    "tokenizers": ({"AutoTokenizer": ["tok.Slow", None]}, "AutoTokenizer: tok.Slow"),
    "text": ("modeling.Model", "modeling.Model"),
}


@pytest.mark.parametrize("kind", AUTO_MAPS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "text/preprocessor_config.json"])
def test_auto_map(tmp_path: Path, kind: str, name: str) -> None:
    value, said = AUTO_MAPS[kind]
    (finding,) = find(tmp_path, {name: {"auto_map": value}})
    assert (finding.rule.id, finding.file) == ("code-auto-map", name)
    assert said in finding.found


def test_nested_and_escaped_auto_maps(tmp_path: Path) -> None:
    escaped = b'{"text_config": [{"\\u0061uto_map": {"AutoModel": "m.M"}}]}'
    assert ids(find(tmp_path, {"config.json": escaped})) == ["code-auto-map"]


def test_custom_pipelines(tmp_path: Path) -> None:
    pipelines = {"pair": {"impl": "pair_classification.Pipeline", "pt": ["AutoModel"], "type": "text"}}
    (finding,) = find(tmp_path, {"config.json": {"custom_pipelines": pipelines}})
    assert finding.rule.id == "code-custom-pipelines"
    assert finding.found == "pair: pair_classification.Pipeline"


def test_files_with_code(tmp_path: Path) -> None:
    code = ["modeling.py", "lib/a.so", "lib/a.so.1.2", "A.DLL", "a.pyd", "a.dylib", "a.pyc"]
    other = ["train.sh", "notebook.ipynb", "notes.txt", "a.sort", "py"]
    findings = find(tmp_path, dict.fromkeys([*code, *other], b""))
    assert set(ids(findings)) == {"code-file"}
    assert sorted(finding.file for finding in findings) == sorted(code)


HARMLESS_CONFIGS = {
    "deep": b'{"auto_map": ' + b"[" * 100_000,
    "malformed": b'{"auto_map": {"a": "b.c"},',
    "latin-1": b'{"auto_map": "\xff"}',
    "utf-16": '{"auto_map": {"a": "b.c"}}'.encode("utf-16"),
    "list": b'["auto_map"]',
    "digits": b'{"auto_map": ' + b"9" * 10_000 + b"}",
    "empty": b'{"auto_map": {}, "chat_template": null}',
    "no-key": b"[" * (MAX_VALUES + 1),
}


@pytest.mark.parametrize("kind", HARMLESS_CONFIGS)
def test_a_config_that_nothing_can_read_imports_nothing(tmp_path: Path, kind: str) -> None:
    assert find(tmp_path, {"tokenizer_config.json": HARMLESS_CONFIGS[kind]}) == []


def test_configs_that_are_too_large_to_look_into(tmp_path: Path) -> None:
    files = {
        "tokenizer_config.json": b" " * (MAX_CONFIG + 1),
        "config.json": b'{"auto_map": [' + b"[]," * (MAX_VALUES + 1) + b"0]}",
    }
    assert ids(find(tmp_path, files)) == ["code-config-unread", "code-config-unread"]


def test_many_findings_in_one_file_are_bounded(tmp_path: Path) -> None:
    assert len(find(tmp_path, {"config.json": {"a": [{"auto_map": "m.M"}] * 1000}})) == 20
