"""`packer ci github`, `packer ci summary` and packer's action: what they are, as far as tools know GitHub's rules.

What they do is in `tests/consume/test_act.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from containers.ci.github import COMMENTS, Workflow, workflow
from containers.ci.text import workflow_yaml
from packer.buildfile import read_builds
from packer.github import needed
from scripts.workflows import FILE, document
from tests.parts.command import ROOT, packer, run

ACTION = "acme/packer@" + "5" * 40
SHAPES = {
    "one": "source: ./model\npublish: {to: ghcr.io/acme/smollm2:v1}\n",
    "variants": """
source: hf://ORG/NAME@main
publish: {to: registry.example.com/models/smollm2}
variants:
  - {name: plain}
  - {name: 4.bit, quantize: int4-w4a16, evaluate: fidelity}
""",
}
OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("--no-attest", "--schedule", ""),
    ("--installed", "--runner", "self-hosted", "--runner", "x64", "--branch", "trunk"),
    ("--action", "./"),
)


def written(folder: Path, shape: str, *arguments: str) -> dict[str, Any]:
    """The workflow that the command writes, as GitHub reads it."""
    (folder / "packer.yaml").write_text(SHAPES[shape])
    done = packer("ci", "github", "packer.yaml", "--action", ACTION, *arguments, cwd=folder)
    return read(folder / done.stdout.strip())


def read(file: Path) -> dict[str, Any]:
    """YAML 1.1 takes `on` for a truth value; YAML 1.2 and GitHub do not."""
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"^on:", "'on':", file.read_text(), flags=re.MULTILINE))
    return loaded


def require_valid(folder: Path, clients: Path) -> None:
    """No word of actionlint (with shellcheck), zizmor, or the schema of workflows."""
    tools, files = clients / "github/bin", sorted((folder / ".github/workflows").iterdir())
    assert files
    run("shellcheck", "--version")
    lint = subprocess.run([tools / "actionlint", *files], cwd=folder, capture_output=True, text=True, check=False)
    assert (lint.stdout, lint.returncode) == ("", 0)
    run(tools / "zizmor", "--offline", "--strict-collection", *files)
    run(tools / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "default")
def test_it_is_a_valid_workflow(options: tuple[str, ...], tmp_path: Path, clients: Path) -> None:
    run("git", "init", "--quiet", tmp_path)
    (tmp_path / "action.yml").write_text((ROOT / "action.yml").read_text())
    for shape in SHAPES:
        assert written(tmp_path, shape, "--name", shape, *options)["permissions"] == {}
    require_valid(tmp_path, clients)


def test_the_tools_see_what_is_wrong(tmp_path: Path, clients: Path) -> None:
    """That they say nothing of ours means something."""
    run("git", "init", "--quiet", tmp_path)
    text = (ROOT / FILE).read_text()
    file = tmp_path / ".github/workflows/model.yml"
    file.parent.mkdir(parents=True)
    for good, bad in (
        (r"uses: actions/checkout@\w+", "uses: actions/checkout@v6"),
        ("timeout-minutes: ", "timeout-minuten: "),
        (r"uses: \./\.packer.*", 'run: echo "${{ inputs.file }}"'),
    ):
        file.write_text(re.sub(good, bad, text))
        assert file.read_text() != text
        with pytest.raises(AssertionError):
            require_valid(tmp_path, clients)


def test_the_action_is_valid_and_its_scripts_take_values_from_the_environment_alone(
    tmp_path: Path, clients: Path
) -> None:
    tools, action = clients / "github/bin", ROOT / "action.yml"
    run(tools / "check-jsonschema", "--builtin-schema", "vendor.github-actions", action)
    run(tools / "zizmor", "--offline", "--strict-collection", action)
    steps = yaml.safe_load(action.read_text())["runs"]["steps"]
    assert len(steps) == 6
    for step in steps:
        assert "uses" not in step
        assert step["run"].startswith("set -euo pipefail\n")
        assert "${{" not in step["run"]
        run("shellcheck", "--shell=bash", "-", input=step["run"])


def test_a_login_without_a_password_is_an_error_that_says_what_to_look_at(tmp_path: Path) -> None:
    (login,) = [
        step for step in yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"] if "Log" in step["name"]
    ]
    env = {"REGISTRY": "registry.example.com", "USERNAME": "tester", "PASSWORD": "", "RUNNER_TEMP": str(tmp_path)}
    done = run("bash", "-c", login["run"], env=env, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("::error::There is no login for registry.example.com: username or password is empty.")


def test_the_reusable_workflow_is_what_make_docs_makes(tmp_path: Path, clients: Path) -> None:
    assert (ROOT / FILE).read_text() == document(), "make docs"
    run("git", "init", "--quiet", tmp_path)
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_text(document())
    require_valid(tmp_path, clients)


def test_what_both_workflows_give_the_action_are_its_inputs_and_outputs(tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    for document_ in (written(tmp_path, "variants"), read(ROOT / FILE)):
        job = document_["jobs"]["build"]
        (build,) = [step for step in job["steps"] if step["name"] == "Build"]
        assert set(build["with"]) <= set(action["inputs"])
        used = set(re.findall(r"steps\.build\.outputs\.([\w-]+)", json.dumps(document_)))
        assert used <= set(action["outputs"])
        assert {"reference", "digest", "retention", "verdict", "changed"} <= used
        pinned = [step["uses"] for step in job["steps"] if not step["uses"].startswith("./")]
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", uses) for uses in pinned)


def test_triggers_rights_and_variants(tmp_path: Path) -> None:
    one = written(tmp_path, "one")
    assert (one["name"], one["concurrency"]["group"]) == ("smollm2", "model-ghcr.io/acme/smollm2")
    assert one["on"]["repository_dispatch"] == {"types": ["build-smollm2"]}
    assert one["on"]["push"]["paths"] == ["packer.yaml", ".github/workflows/smollm2.yml"]
    assert one["on"]["schedule"] == [{"cron": "17 4 * * 1"}]
    job = one["jobs"]["build"]
    rights = {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"}
    assert job["permissions"] == rights
    assert "strategy" not in job
    given = {"file": "packer.yaml", "unless-unchanged": "${{ github.event_name == 'schedule' }}"}
    assert job["steps"][1]["with"] == given
    assert job["steps"][2]["with"]["name"] == "smollm2"

    several = written(tmp_path, "variants", "--no-attest", "--schedule", "")
    assert "schedule" not in several["on"]
    job = several["jobs"]["build"]
    assert job["permissions"] == {"contents": "read"}
    assert job["strategy"] == {"fail-fast": False, "matrix": {"variant": ["plain", "4.bit"]}}
    assert {"digest-plain", "digest-4_bit"} < set(job["outputs"])
    given = job["steps"][1]["with"]
    assert (given["variant"], given["extras"]) == ("${{ matrix.variant }}", "evaluate,quantize")
    assert (given["registry"], given["hf-token"]) == ("registry.example.com", "${{ secrets.HF_TOKEN }}")
    assert "unless-unchanged" not in given
    assert len(job["steps"]) == 3
    assert job["steps"][2]["with"]["name"] == "smollm2-${{ matrix.variant }}"
    assert job["steps"][2]["if"].startswith("${{ always() && ")


@pytest.mark.parametrize(
    ("text", "extras"),
    [
        ("source: a", []),
        ("source: a\nvalidate: {pickle: convert}", ["convert"]),
        ("source: a\nquantize: fp8-dynamic", ["quantize"]),
        ("source: a.onnx\nquantize: onnx-int8-dynamic\nevaluate: fidelity", ["evaluate", "onnx", "onnx"]),
        ("source: a.gguf\nevaluate: {suite: fidelity, baseline: b.gguf}", ["evaluate", "llama"]),
    ],
)
def test_extras(text: str, extras: list[str], tmp_path: Path) -> None:
    (tmp_path / "packer.yaml").write_text(text)
    assert sorted(needed(read_builds(tmp_path / "packer.yaml")[""])) == extras


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("source: a", "", "a runner keeps nothing when its job ends"),
        ("source: a\npublish: {to: 'oci:out:v1'}", "", "a runner keeps nothing when its job ends"),
        (SHAPES["one"], "--name ../x", "a workflow's file has a name of letters"),
        (SHAPES["one"], "--action acme/packer", "this is no action"),
        (SHAPES["one"], "--schedule weekly", "this is no schedule"),
        (SHAPES["one"], "--out elsewhere", "the build file lies outside of the repository"),
        (
            SHAPES["variants"] + "  - {name: far, publish: {to: ghcr.io/acme/far}}\n",
            "",
            "the variants go to several registries",
        ),
        (SHAPES["variants"] + "  - {name: 4_bit}\n", "", "two variants would have the same outputs"),
        (SHAPES["variants"] + "  - {name: Plain}\n", "", "found:    plain, Plain"),
    ],
)
def test_what_a_runner_cannot_do_is_an_error(text: str, arguments: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "packer.yaml").write_text(text)
    done = packer("ci", "github", "packer.yaml", *arguments.split(), check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.rglob("*.yml"))


def test_without_a_place_of_the_action_it_is_the_repository_itself(tmp_path: Path) -> None:
    (tmp_path / "packer.yaml").write_text(SHAPES["one"])
    done = packer("ci", "github", "packer.yaml", cwd=tmp_path)
    assert "--action OWNER/REPO@COMMIT" in done.stderr
    job = read(tmp_path / ".github/workflows/smollm2.yml")["jobs"]["build"]
    assert job["steps"][1]["uses"] == "./"


def test_a_packer_from_github_knows_where_its_action_is(tmp_path: Path) -> None:
    """In a process of its own, where the record of pip says so: this packer was installed from a folder."""
    script = (
        "import sys; from importlib import metadata; from packer import github\n"
        "class Record:\n"
        "    def read_text(self, name):\n"
        "        assert name == 'direct_url.json'\n"
        "        return sys.argv[1]\n"
        "github.distribution = lambda name: Record()\n"
        "print(github.installed_from())"
    )
    git = {"vcs": "git", "commit_id": "5" * 40, "requested_revision": "v1"}
    for url, known in (("https://github.com/acme/packer.git", ACTION), ("https://git.example.com/acme/packer", "")):
        record = json.dumps({"url": url, "vcs_info": git})
        assert run(ROOT / ".venv/bin/python", "-c", script, record).stdout.strip() == known


def test_a_comment_stands_beside_each_line_that_needs_one() -> None:
    text = workflow_yaml(workflow(Workflow("a", "packer.yaml", "ghcr.io/acme/a", ACTION)), COMMENTS, "Head.")
    assert text.startswith("# Head.\n\nname: a\n\non:\n")
    assert re.search(r"uses: actions/checkout@[0-9a-f]{40}  # v6\.0\.2\n", text)
    assert "packages: write  # to push to ghcr.io\n" in text
    assert "'on'" not in text


# ---------------------------------------------------------------- the summary


def summary(folder: Path, document: object) -> str:
    (folder / "result.json").write_text(json.dumps(document))
    return packer("ci", "summary", folder / "result.json").stdout


def test_a_failure_in_the_summary_cannot_write_the_page(tmp_path: Path) -> None:
    """What the error names comes from the model, and is no Markdown of ours."""
    evil = "x```\n# Retained\n<img src=x>\x1b[31m"
    page = summary(tmp_path, {"event": "error", "what": evil, "subject": "model.safetensors", "hint": "mend it"})
    assert page.startswith(
        "## Failed\n\n````text\nx```\n# Retained\n<img src=x>\ufffd[31m\nsubject:  model.safetensors\n"
    )
    assert page.count("````") == 2
    assert page.index("hint:     mend it") < page.rindex("````")


def test_an_error_may_have_come_between_the_two_tags(tmp_path: Path) -> None:
    """They move one after the other (`packer.publish`): one may have moved when the registry refuses the next."""
    page = summary(tmp_path, {"event": "error", "what": "the registry answers 500", "subject": "v1-modelpack"})
    assert "No tag was moved, unless it failed while it was publishing: then the image's may have moved" in page
    assert "Run it again" in page


def test_a_build_that_died_has_a_summary_too(tmp_path: Path) -> None:
    for text in ("", json.dumps({"event": "plan"})):
        (tmp_path / "result.json").write_text(text)
        assert packer("ci", "summary", tmp_path / "result.json").stdout.startswith("## Nothing was published\n")
    done = packer("ci", "summary", tmp_path / "none.json", check=False)
    assert (done.returncode, "there is no outcome of a build" in done.stderr) == (2, True)


def test_a_scorecard_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    digest = "sha256:" + "1" * 64
    release: dict[str, Any] = {
        "event": "release",
        "image": f"oci:{tmp_path}/out@{digest}",
        "modelpack": None,
        "tags": ["v1"],
    }
    release |= {"changed": True, "blobs_sent": 2, "bytes_sent": 2048, "scorecard": f"oci:{tmp_path}/out@{digest}"}
    page = summary(tmp_path, release)
    assert f"| digest | `{digest}` |" in page
    assert "| changed | yes: 2 blobs, 2.0 KiB sent |" in page
    assert "The scorecard cannot be shown." in page
