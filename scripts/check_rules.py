"""Writes docs/check.md from the rules themselves: `make docs`. A test fails if that was forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from containers.check.clients import CLIENTS
from containers.check.rules import KINDS, rules
from containers.check.verdicts import Outcome, Rule

_HEAD = """# Check: which clients can use an artifact

    packer check registry.example.com/models/smollm2:v1
    packer check oci:./out:v1 --for containerd,kserve-native --json

`packer check` reads the manifests of any artifact, ours or another tool's, with their configs and the headers of their
tar layers, and says of each client whether it works, works on a condition, fails, or gives nothing without a word; by
which rule, where, and what to do. The exit code is 3 if any client that was asked about does not get the model.

Of a build of packer, clients that know models are judged by the ModelPack manifest beside the image
(`TAG-modelpack`), and are told to take that.

This page is made from the code by `make docs`. What a rule has from a client's sources is named there; *run* is what
the tests let decide, with the versions named.
"""

_READ = """## What is read

Manifests and configs, 8 MiB of an index together; headers of uncompressed tars by ranges; compressed layers as a
stream, 64 MiB in all. Beyond 500 layers, 20,000 members or 32 MiB of headers the rest is not looked at, and the verdict
says so where it matters. Platforms: of an index every entry for Linux is judged, and what one of them breaks counts.
Whether a node's platform is among them shows in the second line of the table.

## Where clients differ from what is written about them

- An artifact as an image volume is mounted **empty** by containerd 2.1: this was read in its sources by others, and is
  so. containerd 1.6, which has no image volumes, counts differently and refuses to unpack one.
- `podman artifact pull` takes indexes, by platform, in 5.4 and 5.8; that its store refuses lists is out of date.
- podman 4 mounts images without diff_ids, and with wrong ones. podman 5 refuses wrong ones.
- A layer in which a path stands twice, such as `models/` and `./models/`, is refused by podman and CRI-O alone.
- ORAS pulls everything below an index that has a title, of all platforms, artifacts among them. oras-py, which is
  another program, calls layers without a title by their digests.
- ORAS pushes every file under the type of an image layer, whatever it is, so that the type does not tell a tar: the
  first header does.
- A history that does not match the layers is refused by olot and by programs that convert images; runtimes take it.
- CRI-O, KitOps, modctl and Docker Model Runner are not run by the tests: Debian and PyPI do not have them. Their rules
  are read from their sources.
"""

_TITLES = {
    "images": "Images: containerd, CRI-O, podman, and KServe on them",
    "kserve": "KServe",
    "files": "Artifacts of files: CRI-O, podman, ORAS",
    "models": "Clients that know models: modctl, KitOps, Docker Model Runner",
}

_OUTCOMES = {
    Outcome.CONDITION: "Works on a condition",
    Outcome.EMPTY: "Nothing, without a word",
    Outcome.FAILS: "Fails",
}


def document() -> str:
    """The whole page."""
    return "\n".join((_HEAD, *_clients(), _READ, *(line for kind in KINDS for line in _section(kind))))


def _clients() -> Iterator[str]:
    yield "## Clients\n"
    yield "| client | how it takes the model | needs |"
    yield "|---|---|---|"
    for client in CLIENTS.values():
        yield f"| `{client.name}` | {client.how} | {client.needs} |"
    yield ""


def _section(kind: str) -> Iterator[str]:
    yield f"## {_TITLES[kind]}\n"
    for rule in rules(kind):
        yield from _entry(rule)


def _entry(rule: Rule) -> Iterator[str]:
    yield f"### {rule.id}\n"
    yield f"**{_OUTCOMES[rule.outcome]}**: {rule.look}.\n"
    yield f"{rule.why}\n"
    yield f"- Where it is from: {rule.source}"
    yield f"- What to do: {rule.advice}\n"


if __name__ == "__main__":
    Path("docs/check.md").write_text(document(), encoding="utf-8")
