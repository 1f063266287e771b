"""Intervals that stay valid however often one looks: by simulation, with the truth known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from recipes.evaluation.intervals import LEAST, Floats, Method, asymptotic, betting
from recipes.evaluation.scorecard import Gate, Metric, Verdict
from recipes.evaluation.series import Series, decide, fewest, largest, metrics, needed

RUNS = 1000
WRONG = 0.05
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
PASSAGES = tuple(range(32, 337, 4))
ITEMS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
TOKENS = 255.0


def losses(theta: float, spread: float = 0.02) -> Draw:
    """Differences of log-likelihoods, summed over passages, whose tails are heavier than normal ones."""

    def draw(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        noise = random.standard_t(5, count) * spread
        return TOKENS * (theta + noise), np.full(count, TOKENS)

    return draw


def uneven(theta: float) -> Draw:
    """The same over passages of many lengths."""

    def draw(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        tokens = random.integers(20, 256, count).astype(np.float64)
        return tokens * theta + random.normal(0, 0.3, count) * np.sqrt(tokens), tokens

    return draw


def tokens_right(retention: float) -> Draw:
    """Tokens rightly predicted, by passage: some passages are harder, and the candidate loses some and wins some."""

    def draw(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        right = random.binomial(255, random.beta(20, 24, count))
        lost = random.binomial(right, 0.12)
        mean_won = (retention - 0.88) * 20 / 24
        return (right - lost + random.binomial(255 - right, mean_won)).astype(np.float64), right.astype(np.float64)

    return draw


def answers(retention: float, right: float = 0.83, lost: float = 0.08) -> Draw:
    """Items answered rightly or wrongly by both."""

    def draw(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        before = random.random(count) < right
        won = (retention - (1 - lost)) * right / (1 - right)
        after = np.where(before, random.random(count) >= lost, random.random(count) < won)
        return after.astype(np.float64), before.astype(np.float64)

    return draw


def first_verdict(
    draw: Draw, method: str, gate: Gate, looks: tuple[int, ...], random: np.random.Generator
) -> tuple[Verdict, int]:
    """The verdict at the first look that gives one, and the units that had been used."""
    above, below = draw(random, looks[-1])
    for count in looks:
        verdict = decide(metrics([series(above[:count], below[:count], method)], gate), ())
        if verdict is not Verdict.UNDECIDED:
            return verdict, count
    return Verdict.UNDECIDED, looks[-1]


@pytest.mark.parametrize(
    ("draw", "method", "looks", "retain", "is_log"),
    [
        (losses(math.log(0.97)), "asymptotic", PASSAGES, 0.97, True),
        (uneven(math.log(0.97)), "asymptotic", PASSAGES, 0.97, True),
        (tokens_right(0.97), "asymptotic", PASSAGES, 0.97, False),
        (answers(0.95), "betting", ITEMS, 0.95, False),
        (answers(0.99, lost=0.01), "betting", ITEMS, 0.99, False),
    ],
    ids=["log-likelihoods", "passages of many lengths", "tokens", "items", "items with rare differences"],
)
def test_at_the_threshold_few_of_1000_runs_are_decided(
    draw: Draw, method: str, looks: tuple[int, ...], retain: float, is_log: bool
) -> None:
    """The truth is the threshold itself: `lost` is wrong, and a hair below it `retained` would be. Looked at again and
    again, until it is known.
    """
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(RUNS):
        above, below = draw(random, looks[-1])
        for count in looks:
            series = Series("", method, above[:count], below[:count], 1, 1, is_gated=True, is_log=is_log)
            [metric] = metrics([series], Gate(retain=retain))
            if not metric.retention.low < retain <= metric.retention.high:
                wrong += 1
                break
    assert wrong <= WRONG * RUNS


def test_an_interval_for_one_look_would_be_fooled() -> None:
    """The control: with the usual interval, looked at as often, many more runs are wrong."""
    random, wrong = np.random.default_rng(11), 0
    for _ in range(RUNS):
        above, below = losses(0.0)(random, PASSAGES[-1])
        ratios = above / below
        for count in PASSAGES:
            error = 1.96 * ratios[:count].std(ddof=1) / math.sqrt(count)
            if abs(ratios[:count].mean()) > error:
                wrong += 1
                break
    assert wrong > 2 * WRONG * RUNS


@pytest.mark.parametrize(
    ("draw", "method", "looks", "verdict"),
    [
        (tokens_right(0.99), "asymptotic", PASSAGES, Verdict.RETAINED),
        (tokens_right(0.9), "asymptotic", PASSAGES, Verdict.LOST),
        (answers(0.99, lost=0.03), "betting", ITEMS, Verdict.RETAINED),
        (answers(0.7, lost=0.32), "betting", ITEMS, Verdict.LOST),
    ],
    ids=["tokens kept", "tokens lost", "items kept", "items lost"],
)
def test_a_clear_case_ends_early(draw: Draw, method: str, looks: tuple[int, ...], verdict: Verdict) -> None:
    """In most runs less than half of the samples are needed; the figures are in docs/evaluation.md."""
    retain = 0.95 if method == "asymptotic" else 0.9
    random = np.random.default_rng(7)
    found = [first_verdict(draw, method, Gate(retain=retain), looks, random) for _ in range(200)]
    assert sum(one is verdict for one, _ in found) >= 190
    assert np.median([count for _, count in found]) <= looks[-1] / 2


def test_models_that_do_not_differ() -> None:
    ones, some = np.ones(600), np.array([1.0, 0.0] * 300)
    assert asymptotic(ones * 3, ones, 0.95).low == asymptotic(ones * 3, ones, 0.95).high == 3
    found = betting(some, some, 0.95)
    assert found.estimate == 1
    assert 0.98 < found.low < 1 < found.high < 1.03


@pytest.mark.parametrize("method", [asymptotic, betting])
def test_more_units_and_less_confidence_are_narrower(method: Method) -> None:
    above, below = answers(0.95)(np.random.default_rng(1), 400)

    def width(count: int, confidence: float) -> float:
        found = method(above[:count], below[:count], confidence, 1.0)
        assert found.low <= found.estimate <= found.high
        return found.high - found.low

    assert width(400, 0.95) < width(200, 0.95) < width(100, 0.95)
    assert width(200, 0.8) < width(200, 0.95) < width(200, 0.999)


def test_repeating_is_as_if_all_were_seen_again() -> None:
    above, below = answers(0.95)(np.random.default_rng(2), 100)
    for method in (asymptotic, betting):
        once = method(above, below, 0.95, 3.0)
        thrice = method(np.tile(above, 3), np.tile(below, 3), 0.95, 1.0)
        assert once.low == pytest.approx(thrice.low, abs=2e-3)
        assert once.high == pytest.approx(thrice.high, abs=2e-3)


@pytest.mark.parametrize("count", [0, 1, LEAST - 1])
def test_few_units_tell_nothing(count: int) -> None:
    found = asymptotic(np.ones(count), np.ones(count), 0.95)
    assert (found.low, found.high) == (-math.inf, math.inf)
    [metric] = metrics([series(np.ones(count), np.ones(count), "asymptotic")], Gate())
    assert metric.verdict is Verdict.UNDECIDED
    assert (metric.retention.low, metric.retention.high) == (0, 10)


def test_a_baseline_that_is_never_right_tells_nothing() -> None:
    for method in ("asymptotic", "betting"):
        [metric] = metrics([series(np.ones(100), np.zeros(100), method)], Gate())
        assert metric.verdict is Verdict.UNDECIDED
        assert math.isfinite(metric.retention.estimate)


def series(above: Floats, below: Floats, method: str, **more: bool) -> Series:
    """One measure that counts."""
    return Series("it", method, above, below, 1, 1, is_gated=True, **more)


def test_how_many_would_decide() -> None:
    gate = Gate(retain=0.95)
    above, below = answers(0.99, lost=0.03)(np.random.default_rng(3), 100)
    one = series(above, below, "betting")
    count = needed([one], gate, 100)
    assert 100 < count < 2000
    assert verdict_of(one, gate, count / 100) is Verdict.RETAINED
    assert verdict_of(one, gate, 0.9 * count / 100) is Verdict.UNDECIDED


def verdict_of(one: Series, gate: Gate, repeated: float) -> Verdict:
    """What would be known."""
    return decide(metrics([one], gate, repeated), ())


def test_no_number_decides_what_lies_on_the_threshold() -> None:
    above = np.array([0.95] * 100)
    assert needed([series(above + np.array([0.1, -0.1] * 50), np.ones(100), "asymptotic")], Gate(retain=0.95), 100) == 0


def test_the_fewest_items() -> None:
    gate = Gate(retain=0.95)
    least = fewest("betting", gate, 1)
    assert 60 < least < 120
    assert largest(gate, least) >= 0.95 > largest(gate, least - 2)
    assert fewest("betting", gate, 3) > least
    assert fewest("betting", Gate(retain=0.99), 1) > 4 * least
    assert fewest("asymptotic", gate, 1) == LEAST


def test_doubt_is_shared_and_one_loss_is_enough() -> None:
    good, bad = series(np.ones(600), np.ones(600), "betting"), series(np.zeros(600), np.ones(600), "betting")
    gate = Gate(retain=0.95)

    def verdict(*measures: Series) -> Verdict:
        return decide(metrics(measures, gate), ())

    assert verdict(good) is verdict(good, good) is Verdict.RETAINED
    assert verdict(good, bad) is Verdict.LOST
    assert decide(metrics([good], gate), ["it crashed"]) is Verdict.LOST
    assert verdict() is Verdict.UNDECIDED
    alone: Metric = metrics([good], gate)[0]
    assert metrics([good, bad], gate)[0].retention.low < alone.retention.low
