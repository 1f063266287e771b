"""Pushing, pulling and copying two gigabytes, beside shells and other clients: `python -m bench registry`.

The registry is docker's, its storage on tmpfs as the model's; each push goes to a registry that is new. To spare memory
the model and its layout are never there at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench import rivals
from bench.ground import Ground, make_model, sink
from bench.measure import RUNS, Attempt, Cost, Row, in_turn, once
from bench.rivals import REPOSITORY, Rival, Words, reference

SLOW_RUNS = 3
_NO_GOAL = "none"


@dataclass(frozen=True)
class Duel:
    """A rival, and what is to be reached beside it: in words, and whether that is told as "n times as fast"."""

    rival: Rival
    goal: str
    is_multiple: bool = False


def run(scratch: Path) -> Iterator[Row]:
    """Every comparison."""
    ground = Ground(scratch / "registry")
    ground.folder.mkdir()
    try:
        yield from _all(ground)
    finally:
        shutil.rmtree(ground.folder)


def _all(ground: Ground) -> Iterator[Row]:
    make_model(ground.model)
    ground.packer("build", ground.model, "--to", f"oci:{ground.layout}:v1")
    shutil.rmtree(ground.model)
    pushed = yield from _pushes(ground)
    with ground.registry() as address:
        ground.packer("push", f"oci:{ground.layout}", reference(address))
        digests = [path.name for path in ground.weights]
        shutil.rmtree(ground.layout)
        pulled = yield from _pulls(ground, address, digests)
        yield _copy(ground, address, pushed, pulled)
        yield from _tags(ground, address)
        ground.packer("pull", reference(address), ground.model)
    yield from _builds(ground)
    yield from _again(ground)


def _pushes(ground: Ground) -> Generator[Row, None, Cost]:
    """Pushes of a layout; returns what the one beside curl cost."""
    words = ("push", f"oci:{ground.layout}")
    curl = rivals.curl(ground.weights, are_named=True)
    shell = Duel(curl, "within 1.15 of its time")
    others = [
        Duel(rivals.oras(ground.weights), "never slower, at most 0.6 of its CPU"),
        Duel(rivals.skopeo(ground.layout), _NO_GOAL),
    ]
    what = f"push a layout of {_gigabytes(ground):.1f} GB in 4 shards"
    pushed = yield from _duels(ground, what, ground.pushing(*words), [shell], RUNS)
    yield from _duels(ground, what, ground.pushing(*words), others, SLOW_RUNS)
    yield from _sinks(ground, "push the layout to a sink", words, curl)
    return pushed


def _builds(ground: Ground) -> Iterator[Row]:
    """Builds that push: validated, packed, hashed."""
    words = ("build", ground.model, "--to")
    curl = rivals.curl(ground.weights, are_named=False)
    fast = [
        Duel(curl, _NO_GOAL),
        Duel(rivals.oras(ground.weights), "never slower, at most 0.6 of its CPU"),
    ]
    slow = [
        Duel(rivals.buildah(ground.model, ground.folder), "at least 6x as fast", is_multiple=True),
        Duel(rivals.olot(ground.model, ground.folder), "at least 1.8x as fast", is_multiple=True),
        Duel(rivals.modelpack(ground.model, ground.folder), _NO_GOAL, is_multiple=True),
    ]
    what = f"build and push {_gigabytes(ground):.1f} GB in 4 shards, hashing included"
    yield from _duels(ground, what, ground.pushing(*words), [*fast, *slow], SLOW_RUNS)
    yield from _sinks(ground, "build and push to a sink, hashing included", words, curl)


def _duels(ground: Ground, what: str, ours: Attempt, duels: Sequence[Duel], runs: int) -> Generator[Row, None, Cost]:
    """Ours in turn with all rivals that are installed; returns what ours cost."""
    present = [duel for duel in duels if not duel.rival.is_missing]
    mine, *theirs = in_turn([ours, *(ground.beside(duel.rival) for duel in present)], runs)
    for duel, cost in zip(present, theirs, strict=True):
        yield _row(what, mine, duel.rival.name, cost, duel.goal, is_multiple=duel.is_multiple)
    for duel in duels:
        if duel not in present:
            yield Row(what, _figures(mine), f"skipped: {duel.rival.name} is not installed", "", duel.goal)
    return mine


def _sinks(ground: Ground, what: str, words: Sequence[str | Path], curl: Rival) -> Iterator[Row]:
    """What ours can send, beside curl and beside the hashing alone."""

    def shell() -> Cost:
        with sink() as address:
            return once(curl.command(address))

    openssl: Words = ["openssl", "dgst", "-sha256", *ground.weights]
    mine, theirs, hashing = in_turn([ground.to_sink(*words), shell, lambda: once(openssl)])
    rate = _gigabytes(ground) / mine.seconds
    yield Row(
        what,
        f"{rate:.2f} GB/s; {_figures(mine)}",
        f"{_gigabytes(ground) / theirs.seconds:.2f} GB/s; {_figures(theirs)} ({curl.name})",
        f"{mine.seconds / theirs.seconds:.2f} of its time",
        "at least 1 GB/s, under 100 MB",
    )
    yield Row(
        f"{what}: processor time",
        f"{mine.cpu:.2f} s CPU",
        f"{hashing.cpu:.2f} s CPU (openssl dgst -sha256)",
        f"{mine.cpu / hashing.cpu:.2f} of its CPU",
        "at most 1.5 of its CPU",
    )


def _pulls(ground: Ground, address: str, digests: Sequence[str]) -> Generator[Row, None, Cost]:
    """Pulls of one artifact, hashed as they come and hashed after; returns what ours cost."""

    def ours() -> Cost:
        ground.clear()
        return ground.packer("pull", reference(address), ground.out)

    def shell(*, hashed_at_once: bool) -> Attempt:
        def attempt() -> Cost:
            ground.clear()
            return once(rivals.curl_pull(address, ground.out, digests, hashed_at_once=hashed_at_once))

        return attempt

    mine, after, at_once = in_turn([ours, shell(hashed_at_once=False), shell(hashed_at_once=True)])
    ground.clear()
    what = "pull 2.1 GB in 4 shards"
    goal = "within 1.25 of its time, under 100 MB"
    yield _row(what, mine, "curl in parallel, then sha256sum", after, goal)
    yield _row(what, mine, "curl in parallel, each followed by openssl dgst", at_once, _NO_GOAL)
    return mine


def _copy(ground: Ground, address: str, pushed: Cost, pulled: Cost) -> Row:
    """A copy between registries, and what it leaves on the disk."""
    kept = list[int]()

    def attempt() -> Cost:
        cost = ground.pushing("copy", reference(address))()
        kept.append(ground.left)
        return cost

    (mine,) = in_turn([attempt], SLOW_RUNS)
    slower = max(pushed, pulled, key=lambda cost: cost.seconds)
    return Row(
        "copy from registry to registry",
        f"{_figures(mine)}; {mine.written:.1f} MB written to files, {max(kept) / 1e6:.2f} MB kept",
        f"{slower.seconds:.2f} s (the slower of packer push and pull)",
        f"{mine.seconds / slower.seconds:.2f} of its time",
        "within 1.3 of its time, no disk, under 100 MB",
    )


def _tags(ground: Ground, address: str) -> Iterator[Row]:
    """What it takes to start and to ask one thing."""
    others = [rival for rival in rivals.tags(address) if not rival.is_missing]
    attempts = [lambda rival=rival: once(rival.command(address)) for rival in others]
    mine, *theirs = in_turn([lambda: ground.packer("tags", f"{address}/{REPOSITORY}"), *attempts])
    for rival, cost in zip(others, theirs, strict=True):
        yield _row("list the tags of a repository", mine, rival.name, cost, _NO_GOAL)


def _again(ground: Ground) -> Iterator[Row]:
    """The model built and pushed once more, to the same place and beside it."""
    ground.clear()
    with ground.registry() as address:
        ground.packer("build", ground.model, "--to", reference(address))
        others = count()
        targets = {
            "to the same tag": lambda: reference(address),
            "to another repository beside it": lambda: f"{address}/bench/other{next(others)}:v1",
        }
        attempts = [
            lambda to=to: ground.packer("build", ground.model, "--json", "--to", to()) for to in targets.values()
        ]
        for where, cost in zip(targets, in_turn(attempts), strict=True):
            yield _unchanged(where, cost)


def _unchanged(where: str, cost: Cost) -> Row:
    told = json.loads(cost.said.strip().split("\n")[-1])
    return Row(
        f"build and push it again, unchanged, {where}",
        f"{_figures(cost)}; {cost.read:.0f} MB read from files, Python's own among them",
        f"{told['blobs_sent']} blobs and {told['bytes_sent']} bytes sent, {told['blobs_mounted']} mounted",
        "",
        "under 1 s, no blob read, no byte sent",
    )


def _row(what: str, mine: Cost, name: str, theirs: Cost, goal: str, *, is_multiple: bool = False) -> Row:
    ratio = f"{theirs.seconds / mine.seconds:.1f}x as fast" if is_multiple else _share(mine, theirs)
    return Row(what, _figures(mine), f"{_figures(theirs)} ({name})", ratio, goal)


def _share(mine: Cost, theirs: Cost) -> str:
    return f"{mine.seconds / theirs.seconds:.2f} of its time, {mine.cpu / theirs.cpu:.2f} of its CPU"


def _figures(cost: Cost) -> str:
    return f"{cost.seconds:.2f} s, {cost.cpu:.2f} s CPU, {cost.megabytes:.0f} MB"


def _gigabytes(ground: Ground) -> float:
    return sum(path.stat().st_size for path in ground.weights) / 1e9
