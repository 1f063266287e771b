"""`python -m fuzz.run [FORMAT...]`: mutants of every format through the readers, on all cores, and what came of it.

Exits with 1 if a reader crashed, hung, took too much memory, or took what the reference library refuses.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.util import Finalize
from pathlib import Path

from fuzz.lane import FORMATS, Lane
from fuzz.tally import Tally

MUTANTS = 20_000
SEED = 20261124
_CHUNK = 250
_SHOWN = 20

_lanes: dict[tuple[str, int], Lane] = {}


def main() -> int:
    """Run what the command line says; the exit status."""
    given = _arguments()
    started = time.monotonic()
    tallies = {name: Tally() for name in given.formats or FORMATS}
    if given.only is not None:
        for name, tally in tallies.items():
            tally.add(_one(name, given.seed, given.only, given.keep))
            print("\n".join(tally.lines(name, _SHOWN)))
    else:
        _all(tallies, given.seed, given.mutants, given.workers)
    failures = sum(len(tally.failures) for tally in tallies.values())
    mutants = sum(tally.mutants for tally in tallies.values())
    print(f"{mutants} mutants of seed {given.seed} in {time.monotonic() - started:.0f} s: {failures} failures")
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description="Feed mutated models to the readers.")
    parser.add_argument("formats", nargs="*", metavar="FORMAT", choices=[[], *FORMATS], help=", ".join(FORMATS))
    parser.add_argument("--seed", type=int, default=SEED, help="of the random numbers; %(default)s")
    parser.add_argument("--mutants", type=int, default=MUTANTS, help="of each format; %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes at work; %(default)s")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one mutant")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the mutant of --only here")
    return parser.parse_args()


def _all(tallies: dict[str, Tally], seed: int, mutants: int, workers: int) -> None:
    chunks = [(name, seed, at, min(at + _CHUNK, mutants)) for name in tallies for at in range(0, mutants, _CHUNK)]
    for name in tallies:
        FORMATS[name].seeds()  # what they are made of is made once, not by two processes
    with ProcessPoolExecutor(workers) as pool:
        for (name, *_), tally in zip(chunks, pool.map(_chunk, chunks), strict=True):
            tallies[name].add(tally)
            if tallies[name].mutants == mutants:
                print("\n".join(tallies[name].lines(name, _SHOWN)), flush=True)


def _chunk(chunk: tuple[str, int, int, int]) -> Tally:
    """Some mutants, in a process that keeps its lane for the next ones of the format."""
    name, seed, start, end = chunk
    if (name, seed) not in _lanes:
        _close()
        _lanes[name, seed] = Lane(name, seed)
        Finalize(None, _close, exitpriority=1)
    return _lanes[name, seed].run(range(start, end))


def _close() -> None:
    while _lanes:
        _lanes.popitem()[1].__exit__(None, None, None)


def _one(name: str, seed: int, number: int, keep: Path | None) -> Tally:
    with Lane(name, seed) as lane:
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            lane.mutant(number).write(keep)
        return lane.run(range(number, number + 1))


if __name__ == "__main__":
    sys.exit(main())
