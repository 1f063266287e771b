"""GitHub workflows run by act, on this machine: no Docker, each job in a folder of its own below its HOME."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containers.ci.github import ATTEST, CHECKOUT, UPLOAD
from tests.parts.command import PACKER, ROOT, run

ACT = ROOT / ".cache/clients/github/bin/act"
OUR_ACTION = "acme/packer@" + "5" * 40

ATTEST_DOUBLE = """
inputs: {subject-name: {required: true}, subject-digest: {required: true}, push-to-registry: {required: true}}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        SAID: ${{ inputs.subject-name }}@${{ inputs.subject-digest }} ${{ inputs.push-to-registry }}
      run: |
        login=$(grep -so '"auths"' ~/.docker/config.json || true)
        echo "$SAID${login:+ with a login}" >> "$ATTESTED"
"""
"""Says what it was asked to attest, and whether there is a login where the real one looks for it: that wants GitHub's
tokens, and Sigstore."""

UPLOAD_DOUBLE = """
inputs: {name: {required: true}, path: {required: true}, overwrite: {}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {NAME: "${{ inputs.name }}", PLACE: "${{ inputs.path }}"}
      run: mkdir -p "$UPLOADED" && cp -rT "$PLACE" "$UPLOADED/$NAME"
"""
"""Keeps the files on this machine: the real one sends them to GitHub."""

CHECKOUT_DOUBLE = """
inputs: {repository: {required: true}, ref: {required: true}, path: {required: true}, persist-credentials: {}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {PLACE: "${{ inputs.path }}"}
      run: mkdir -p "$PLACE" && cp -r "$PACKER_AT/." "$PLACE"
"""
"""Checks out packer from this machine: the real one asks GitHub. act does the checkout of the caller by itself."""


@dataclass(frozen=True)
class Ran:
    """What act said, line by line, and what was attested."""

    lines: Sequence[Mapping[str, Any]]
    attested: Sequence[str]
    said: str

    def results(self) -> dict[str, str]:
        """How each job ended, by its variant."""
        return {_variant(line): line["jobResult"] for line in self.lines if "jobResult" in line}

    def outputs(self, step: str, variant: str = "") -> dict[str, str]:
        """What a step of the job gave to those behind it."""
        return {
            line["name"]: line["arg"]
            for line in self.lines
            if line.get("command") == "set-output" and line["stepID"] == [step] and _variant(line) == variant
        }

    def summary(self, variant: str = "") -> str:
        """The page that the job's people see."""
        pages = [
            line["content"] for line in self.lines if line.get("command") == "summary" and _variant(line) == variant
        ]
        return pages[-1] if pages else ""

    def log(self, *step: str, variant: str = "") -> str:
        """What a step printed; a step inside an action has its own id behind the action's."""
        lines = [line for line in self.lines if line.get("stepID") == [*step] and _variant(line) == variant]
        return "".join(line["msg"] for line in lines if line.get("raw_output"))


def _variant(line: Mapping[str, Any]) -> str:
    return str((line.get("matrix") or {}).get("variant", ""))


@dataclass(frozen=True)
class Repository:
    """A git repository with workflows, and the runner's HOME, both below `folder`."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Repository:
        """An empty one, and the doubles of actions that are not to be had."""
        for name, text in (("attest", ATTEST_DOUBLE), ("checkout", CHECKOUT_DOUBLE), ("upload", UPLOAD_DOUBLE)):
            (folder / name).mkdir(parents=True)
            (folder / name / "action.yml").write_text(f"name: {name}\n{text}")
        (folder / "home").mkdir()
        (folder / "action").mkdir()
        shutil.copy(ROOT / "action.yml", folder / "action")
        run("git", "init", "--quiet", "--initial-branch=main", folder / "repository")
        return cls(folder)

    @property
    def root(self) -> Path:
        """Where its files are."""
        return self.folder / "repository"

    def kept(self, name: str) -> dict[str, str]:
        """The files of an artifact of the last run, by their paths."""
        folder = self.folder / "uploaded" / name
        return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}

    def commit(self) -> None:
        """Make all files of the working tree a commit."""
        git = ("git", "-C", self.root, "-c", "user.name=tester", "-c", "user.email=tester@example.com")
        run(*git, "add", "--all")
        run(*git, "commit", "--quiet", "--allow-empty", "--message", "as it is")

    def act(self, event: str, *arguments: str, env: Mapping[str, str] | None = None, action: Path | None = None) -> Ran:
        """Run what the event starts, job after job, so that one finds in the cache what another has measured.

        packer is in the PATH, as on a runner that has it.
        """
        attested = self.folder / "attested"
        attested.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "uploaded", ignore_errors=True)
        here = {OUR_ACTION: action or self.folder / "action"}
        here |= {ATTEST: self.folder / "attest", CHECKOUT: self.folder / "checkout", UPLOAD: self.folder / "upload"}
        flags = [word for name, place in here.items() for word in ("--local-repository", f"{name}={place}")]
        done = run(
            *(ACT, event, "--json", "--no-cache-server", "--concurrent-jobs", "1"),
            *("--platform", "ubuntu-latest=-self-hosted", *flags, *arguments),
            check=False,
            cwd=self.root,
            timeout=3000,
            env={
                "HOME": str(self.folder / "home"),
                "PATH": f"{PACKER.parent}:{os.environ['PATH']}",
                "ATTESTED": str(attested),
                "UPLOADED": str(self.folder / "uploaded"),
                "TERM": "dumb",
                **(env or {}),
            },
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        said = "\n".join(line.get("msg", "") for line in lines) + done.stderr
        return Ran(lines, attested.read_text().splitlines() if attested.exists() else [], said)


def export(folder: Path) -> Path:
    """packer's own repository, as a checkout of it would be."""
    listed = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder
