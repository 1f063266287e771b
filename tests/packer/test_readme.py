"""What the README shows is what happens."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import yaml

from packer.buildfile import SECTIONS, BuildFile, known_keys
from packer.commands.rebuild import CHANGED
from packer.failures import REFUSED
from tests.parts.command import ROOT, packer

README = (ROOT / "README.md").read_text()


def block(after: str, language: str) -> str:
    return README.partition(after)[2].partition(f"```{language}\n")[2].partition("```")[0]


def test_demo_output(gguf_model: Path, tmp_path: Path) -> None:
    """Times differ, and so do the digests that the host's busybox takes part in; the model's own do not."""
    packer("build", gguf_model, "--to", f"oci:{tmp_path}/out:smollm2")
    shown = packer("inspect", f"oci:{tmp_path}/out:smollm2").stdout.splitlines()
    demo = block("<!-- demo -->", "text")
    own = [line for line in shown if re.search(r"models|parameters|dtypes|licence|quantization", line)]
    assert len(own) >= 6
    for line in own:
        assert line in demo or "in all" in line


def test_build_file_shows_every_key() -> None:
    shown = yaml.safe_load(block("### The build file", "yaml"))
    assert set(shown) == set(known_keys(BuildFile))
    for name, section in SECTIONS.items():
        there = functools.reduce(lambda document, key: document[key], name.split("."), shown)
        assert set(there) == set(known_keys(section))
    BuildFile.model_validate(shown)


def test_exit_codes_are_those_of_the_errors() -> None:
    from registry import errors

    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    raised = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.PackerError)
    }
    assert shown == raised | {0, REFUSED, CHANGED, 130}
