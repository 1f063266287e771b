"""The command starts quickly: it imports nothing heavy before a command needs it."""

from __future__ import annotations

import sys

import click
from click.testing import CliRunner

from containers.modelpack import ModelPack
from packer import cli
from packer.commands import build
from packer.pipeline import pipeline
from packer.stages import STAGES
from tests.parts.command import run

HEAVY = {
    "torch",
    "transformers",
    "rich",
    "pydantic",
    "yaml",
    "oras",
    "requests",
    "huggingface_hub",
    "onnx",
    "gguf",
    "numpy",
}


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from packer.cli import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run(sys.executable, "-c", script).stdout.split()}
    assert not loaded & HEAVY
    assert "click" in loaded


def test_no_command_imports_torch() -> None:
    script = "import sys, packer.pipeline, packer.plan, packer.inspect, containers.unpack; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run(sys.executable, "-c", script).stdout.split()}
    assert not loaded & {"torch", "transformers", "llmcompressor", "lm_eval"}


def test_choices_of_the_command_line_are_those_of_the_code() -> None:
    assert set(build.MODELPACK) == {form.value for form in ModelPack}
    names = pipeline.__code__.co_consts
    assert [name for name in names if name in STAGES] == list(STAGES)


def test_every_command_has_help() -> None:
    for name, command in cli.cli.commands.items():
        shown = CliRunner().invoke(cli.cli, [name, "--help"])
        assert (shown.exit_code, command.help is not None) == (0, True)
        assert all(option.help for option in command.params if isinstance(option, click.Option))
