"""The report: good to look at whatever came out, of one piece, small, and the same for the same values."""

from __future__ import annotations

import itertools
import pickle
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.evaluation.details import Details, Item, Passage, Size, WeightError
from recipes.evaluation.report import passages, plots, render
from recipes.evaluation.report.modules import MAX_COLUMNS, MAX_KINDS, place, table
from recipes.evaluation.report.words import digits, nats, number, percent, size, visible
from recipes.evaluation.scorecard import (
    Circumstances,
    Divergence,
    Gate,
    Interval,
    Metric,
    Party,
    Samples,
    Scorecard,
    Undecided,
    Verdict,
)
from registry.descriptor import digest_of
from tests.parts.browser import Browser, browser
from tests.parts.command import ROOT, run

MEBI = 1 << 20
TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property "
    "of some one or other of their daughters.\n\n“My dear Mr. Bennet,” said his lady to him one day, “have you heard "
    "that Netherfield Park is let at last?” Mr. Bennet replied that he had not."
)
KINDS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
HOSTILE = (
    "<script>alert(1)</script>'\"&`{{7*7}}</style><img src=https://x.example/>\x00\x1b[31m\u202e$\\frac{1}{2}$\ud800"
)
SCHEMES = {"light": False, "dark": True}


def party(name: str, weights_size: int, recipe: str = "") -> Party:
    return Party(
        digest=digest_of(name.encode()),
        name=name,
        url=f"hf://HuggingFaceTB/{name}",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        format="safetensors",
        precision="FP8 per channel" if recipe else "BF16",
        bytes=weights_size,
        memory=weights_size + 700 * MEBI,
        recipe=recipe,
    )


def card(low: float, high: float, retain: float = 0.9, *, needed: int = 0) -> Scorecard:
    """A scorecard of a fidelity suite, as it comes out for a small model."""
    gate = Gate(retain=retain)
    kept = Interval(low, (low + high) / 2, high)
    perplexity = Metric(
        name="perplexity",
        baseline=21.4375,
        candidate=21.4375 / kept.estimate,
        retention=kept,
        method="asymptotic",
        is_gated=True,
        verdict=gate.judge(kept),
    )
    agreement = Interval(0.897, 0.9051, 0.913)
    agreed = replace(perplexity, name="agreement", baseline=1, candidate=0.9051, retention=agreement, is_gated=False)
    return Scorecard(
        verdict=gate.judge(kept),
        gate=gate,
        candidate=party("SmolLM2-135M-Instruct-fp8", 156 * MEBI, "fp8-dynamic"),
        baseline=party("SmolLM2-135M-Instruct", 256 * MEBI),
        metrics=(perplexity, replace(agreed, verdict=gate.judge(agreement))),
        divergence=Divergence(Interval(0.0208, 0.0221, 0.0236), 0.1893, 2.174, agreement, 0.0241, 0.0228),
        samples=Samples(
            suite="fidelity",
            suite_digest=digest_of(b"suite"),
            data="Pride and Prejudice, chapters 20 to 61",
            data_digest=digest_of(b"data"),
            unit="passage",
            used=240,
            available=612,
            tokens=61_200,
            needed=needed,
        ),
        circumstances=Circumstances(
            backend="transformers",
            versions={"torch": "2.13.0", "transformers": "5.1.0", "compressed-tensors": "0.19.0", "packer": "0.1.0"},
            kind="CPU, 2 cores, float32",
            seed=0,
            stopped="the verdict is known",
            seconds=412.6,
            time="2025-11-03T14:22:07Z",
        ),
    )


def details(kept: Interval, *, layers: int = 30) -> Details:
    """What goes with it."""
    random = np.random.default_rng(7)
    divergence = np.exp(random.normal(-5.2, 1.7, 61_200))
    divergence[random.random(61_200) < 0.04] = 0
    return Details(
        before=Size((("model.safetensors", 256 * MEBI),), 956 * MEBI),
        after=Size(
            (("model-00001-of-00002.safetensors", 101 * MEBI), ("model-00002-of-00002.safetensors", 55 * MEBI)),
            856 * MEBI,
        ),
        divergence=divergence,
        agreement=np.clip(0.87 + 0.04 * np.log1p(np.arange(255)) / 5 + random.normal(0, 0.012, 255), 0, 1),
        passages=tuple(passage(index) for index in range(9)),
        weights=tuple(weights(layers)),
        curve=tuple(curve(kept)),
    )


def passage(index: int) -> Passage:
    random = np.random.default_rng(index)
    pieces = tuple(re.findall(r"\s?[^\W\d]+|\s?\d|\s?[^\w\s]|\s", TEXT))
    return Passage(pieces, (0.0, *np.exp(random.normal(-3.2, 1.5, len(pieces) - 1)).tolist()))


def weights(layers: int) -> Iterator[WeightError]:
    random = np.random.default_rng(3)
    for layer, kind in itertools.product(range(layers), KINDS):
        worse = 1.25 if kind.endswith("down_proj") else 1
        error = 0.0245 * worse * (1 + 0.5 * np.exp(-layer / 2)) * random.normal(1, 0.03)
        yield WeightError(f"model.layers.{layer}.{kind}", "float8 per channel", float(error))


def curve(kept: Interval) -> Iterator[tuple[int, float, float, float]]:
    random = np.random.default_rng(5)
    for samples in range(8, 241, 8):
        wide = (kept.high - kept.low) / 2 * (240 / samples) ** 0.6
        middle = kept.estimate + wide * 0.3 * random.normal() * (samples < 240)
        yield samples, middle - wide, middle, middle + wide


RETAINED, LOST = card(0.9723, 0.9897), card(0.962, 0.978, 0.99)
UNDECIDED = replace(
    card(0.9812, 0.9937, 0.99, needed=520),
    circumstances=replace(RETAINED.circumstances, stopped="the budget of 20 min ended"),
)
CRASH = replace(
    LOST,
    metrics=(),
    divergence=None,
    failures=("the candidate crashed at passage 17: RuntimeError: mat1 and mat2 shapes cannot be multiplied",),
    samples=replace(LOST.samples, used=16, tokens=4080),
    circumstances=replace(LOST.circumstances, stopped="the candidate failed"),
)
HEADLINE = "Retained: perplexity keeps 98.1 % of the baseline (at least 97.2 %, asked for: 90 %)"
NOTHING = Details(Size((), 0), Size((), 0))


def tasks() -> Scorecard:
    """A scorecard of tasks of three kinds."""
    names = {
        "capitals acc": (0.8301, 0.826, 0.981, 1.012),
        "arc_easy acc_norm": (0.642, 0.611, 0.921, 0.983),
        "gsm8k exact_match": (0.041, 0.043, 0.74, 1.38),
    }
    gate = Gate(retain=0.95, undecided=Undecided.ACCEPT)
    metrics = tuple(
        Metric(
            name,
            before,
            after,
            span := Interval(low, after / before, high),
            "betting",
            name[0] != "g",
            gate.judge(span),
        )
        for name, (before, after, low, high) in names.items()
    )
    samples = replace(
        LOST.samples, suite="capitals, arc_easy, gsm8k", unit="item", used=900, available=2000, tokens=0, needed=1750
    )
    return replace(LOST, gate=gate, metrics=metrics, verdict=Verdict.UNDECIDED, divergence=None, samples=samples)


def items(count: int) -> tuple[Item, ...]:
    return tuple(
        Item(
            "capitals",
            f"Question {index}: What is the capital of the country whose flag is red and white?",
            "Copenhagen",
            index % 3 != 0,
            index % 3 == 0,
        )
        for index in range(count)
    )


def hostile() -> tuple[Scorecard, Details]:
    """Every text from outside is an attack, and there is far too much of everything."""
    much = HOSTILE * 50
    model = replace(LOST.candidate, name=much, url=much, revision=much, format=much, precision=much, recipe=much)
    metrics = tuple(replace(LOST.metrics[0], name=f"{HOSTILE}{index}", method=HOSTILE) for index in range(400))
    shown = replace(
        LOST,
        candidate=model,
        baseline=model,
        metrics=metrics,
        failures=(HOSTILE * 100,) * 3000,
        samples=replace(LOST.samples, suite=HOSTILE, data=HOSTILE * 9, unit=HOSTILE),
        circumstances=replace(
            LOST.circumstances,
            backend=HOSTILE,
            kind=HOSTILE,
            stopped=HOSTILE,
            time=HOSTILE,
            versions={f"{HOSTILE}{index}": HOSTILE for index in range(300)},
        ),
    )
    passages = (Passage((HOSTILE, "\n", "\u202e" * 500) * 2000, (9.0, float("nan"), 0.2) * 2000),) * 50
    modules = [
        WeightError(f"{HOSTILE}.{index}.{HOSTILE}{index % 40}", HOSTILE, index % 97 / 97) for index in range(10_000)
    ]
    more = Details(
        before=Size(tuple((f"{HOSTILE}{index}", index) for index in range(4000)), 1),
        after=Size((), 1),
        divergence=np.array([np.nan, np.inf, -1e-9, 0, *np.geomspace(1e-12, 1e3, 50_000)]),
        agreement=np.linspace(1, 0, 30_000),
        passages=passages,
        items=(Item(HOSTILE, HOSTILE * 50, HOSTILE * 50, 1, 0),) * 5000,
        weights=tuple(modules),
        curve=tuple((index, 0.1, 0.5, 0.9) for index in range(50_000)),
    )
    return shown, more


CASES: dict[str, tuple[Scorecard, Details]] = {
    "retained": (RETAINED, details(RETAINED.metrics[0].retention)),
    "lost": (LOST, details(LOST.metrics[0].retention, layers=80)),
    "undecided": (UNDECIDED, details(UNDECIDED.metrics[0].retention)),
    "crash": (CRASH, replace(NOTHING, before=details(Interval(0, 0, 0)).before)),
    "tasks": (
        tasks(),
        replace(
            details(Interval(0.921, 0.951, 0.983)),
            divergence=np.empty(0),
            agreement=np.empty(0),
            passages=(),
            items=items(31),
        ),
    ),
    "nothing": (replace(CRASH, failures=()), NOTHING),
    "hostile": hostile(),
}


class Reader(HTMLParser):
    """What a page consists of: its elements with their attributes, and its text without the stylesheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed where another element is open"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    @property
    def headings(self) -> list[str]:
        return [str(attributes["id"]) for tag, attributes in self.elements if tag == "h2"]


VOID = {"meta", "link"}
RENDER = """
import pathlib, pickle, sys
from recipes.evaluation.report import render
values = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
pathlib.Path(sys.argv[2]).write_bytes(render(*values).encode())
"""


@cache
def report(name: str) -> str:
    return render(*CASES[name])


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("retained", HEADLINE),
        ("lost", "Lost: perplexity keeps 97.0 % of the baseline (at most 97.8 %, asked for: 99 %)"),
        ("undecided", "Undecided: perplexity keeps 98.1 to 99.4 % of the baseline, asked for: 99 %"),
        ("crash", f"Lost: {CRASH.failures[0]}"),
        ("tasks", "Undecided: arc_easy acc_norm keeps 92.1 to 98.3 % of the baseline, asked for: 95 %"),
        ("nothing", "Lost: nothing could be measured"),
    ],
)
def test_the_verdict_is_one_line_in_plain_words(name: str, line: str) -> None:
    assert f"{line} " in Reader(report(name)).text


@pytest.mark.parametrize(
    ("known", "title", "who"),
    [
        ({}, "Retained: SmolLM2-135M-Instruct-fp8", "SmolLM2-135M-Instruct-fp8 against SmolLM2-135M-Instruct"),
        ({"name": ""}, "Retained: fast", "fast against fast"),
        ({"name": "", "url": ""}, "Retained: fp8-dynamic", "fp8-dynamic against its baseline"),
        ({"name": "", "url": "", "recipe": ""}, HEADLINE, "The candidate against its baseline"),
    ],
)
def test_the_title_says_something_whatever_is_known_of_the_model(known: dict[str, Any], title: str, who: str) -> None:
    models = (replace(model, url="hf://acme/fast") for model in (RETAINED.candidate, RETAINED.baseline))
    candidate, baseline = (replace(model, **known) for model in models)
    page = render(replace(RETAINED, candidate=candidate, baseline=baseline), NOTHING)
    assert f"<title>{title}</title>" in page.replace("\u00a0", " ") and who in Reader(page).text
    assert not re.search(r"(?:Candidate|Baseline|Retained):\s*</", page), "a colon with nothing behind it"


@pytest.mark.parametrize(
    ("name", "headings"),
    [
        ("retained", "retention divergence passages weights sizes measured"),
        ("lost", "next retention divergence passages weights sizes measured"),
        ("crash", "next failures sizes measured"),
        ("tasks", "next retention items weights sizes measured"),
        ("nothing", "measured"),
    ],
)
def test_a_section_without_anything_to_show_is_not_there(name: str, headings: str) -> None:
    assert Reader(report(name)).headings == headings.split()


def test_it_says_what_to_do_next() -> None:
    text = {name: Reader(report(name)).text for name in ("undecided", "lost", "tasks", "crash")}
    assert (
        "About 280 more passages (520 in all) would decide, if they are like these; the data has 612."
        in text["undecided"]
    )
    assert "Set undecided: extend, and a budget of more than 20 min." in text["undecided"]
    assert "packer recipes" in text["lost"] and "suffices for retain: 0.962" in text["lost"]
    assert "It may ship: this gate accepts what is undecided." in text["tasks"]
    assert "Mend what failed first" in text["crash"]
    short = replace(UNDECIDED, samples=replace(UNDECIDED.samples, needed=900))
    assert "the data has only 612 in all: give more with data" in Reader(render(short, NOTHING)).text
    hopeless = replace(UNDECIDED, samples=replace(UNDECIDED.samples, needed=0))
    assert "More samples would hardly decide" in Reader(render(hopeless, NOTHING)).text


def test_everything_that_was_measured_is_named() -> None:
    text = Reader(report("retained")).text
    for model in (RETAINED.candidate, RETAINED.baseline):
        assert all(value in text for value in (model.digest, model.name, model.url, model.revision))
    samples, circumstances = RETAINED.samples, RETAINED.circumstances
    assert all(value in text for value in (samples.suite_digest, samples.data_digest, samples.data, circumstances.time))
    assert all(f"{name} {version}" in text for name, version in circumstances.versions.items())
    assert "256.0 MiB" in text and "156.0 MiB" in text and "\u221239 %" in text and "6 min 53 s" in text


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_of_one_piece_and_small(name: str) -> None:
    page = report(name)
    assert len(page.encode()) < 1_000_000
    reader = Reader(page)
    assert not reader.open, "an element is not closed"
    assert not {"script", "iframe", "img", "object", "embed", "form", "a"} & {tag for tag, _ in reader.elements}
    for tag, attributes in reader.elements:
        assert not any(key.startswith("on") for key in attributes)
        for key in {"href", "src", "clip-path"} & attributes.keys():
            assert re.match(r"data:image/svg|#|url\(#", attributes[key] or ""), (tag, attributes)
    assert not re.search(r"@import|url\((?!#)", page)
    named = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(named) == len(set(named))
    for _, attributes in reader.elements:
        reference = (attributes.get("href") or "") + (attributes.get("clip-path") or "")
        assert all(
            target in named for target in re.findall(r"#([\w-]+)", reference) if not reference.startswith("data")
        )


def test_the_same_values_give_the_same_text_in_another_process(tmp_path: Path) -> None:
    values, page = tmp_path / "values", tmp_path / "page"
    values.write_bytes(pickle.dumps(CASES["retained"]))
    run(sys.executable, "-c", RENDER, values, page, cwd=ROOT, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert page.read_bytes() == report("retained").encode()


def test_the_memory_is_said_to_be_that_of_the_evaluation() -> None:
    text = Reader(report("retained")).text
    assert "Memory of the evaluation 956.0" in text.replace("\u00a0", " ") and "not what serving takes" in text
    known = CASES["retained"][1]
    assert "serving" not in Reader(render(RETAINED, replace(known, before=replace(known.before, memory=0)))).text


def test_files_of_the_same_names_stand_side_by_side_and_others_in_lists_of_their_own() -> None:
    sharded = Reader(report("retained")).text.replace("\u00a0", " ")
    assert "Weight files before model.safetensors256.0 MiB" in sharded and "Weight files after model-00001" in sharded
    size = Size((("model.safetensors", 156 * MEBI),), 0)
    same = Reader(render(RETAINED, replace(CASES["retained"][1], after=size))).text.replace("\u00a0", " ")
    assert "model.safetensors256.0 MiB156.0 MiB\u221239 %" in same and "Weight files" not in same


def test_hostile_texts_are_seen_and_do_nothing() -> None:
    page = report("hostile")
    assert "<script" not in page and "<img" not in page
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", page)
    text = Reader(page).text
    assert (
        "<script>alert(1)</script>" in text
        and "{{7*7}}" in text
        and "\\u{0}\\u{1B}[31m\\u{202E}" in text
        and "\\u{D800}" in text
    )
    for count in ("and 2,980 more failures", "and 380 more metrics", "and 9,992 more modules", "and 4,985 more items"):
        assert count in text
    assert "and 44 more passages" in text and "and 5,700 more tokens" in text and "and 3,988 more files" in text


def test_a_number_is_rounded_in_one_way() -> None:
    """An agreement that counts has an interval of a confidence of its own, and that one alone is shown."""
    wide = Interval(0.8812, 0.9051, 0.9285)
    agreed = replace(LOST.metrics[1], retention=wide, is_gated=True, verdict=Verdict.UNDECIDED)
    text = Reader(render(replace(LOST, metrics=(LOST.metrics[0], agreed)), CASES["lost"][1])).text.replace(
        "\u00a0", " "
    )
    assert text.count("88.1 to 92.9 %") == 2 and "89.7" not in text
    assert not re.search(r"0\.90|(?<!\d)0\.9051|90\.51", text) and text.count("90.5 %") >= 3
    assert "2 metrics are gated: each has 97.5 %, which makes 95 % for all of them together" in text
    assert "gated: each" not in Reader(report("retained")).text


def test_an_interval_is_explained_in_plain_words() -> None:
    for method, words in (("asymptotic", "good from 32 of them"), ("betting", "exact for any number")):
        shown = replace(RETAINED, metrics=(replace(RETAINED.metrics[0], method=method),))
        text = Reader(render(shown, NOTHING)).text
        assert f"Method: {method} (" in text and words in text and "docs/evaluation.md" in text
    assert "## The interval" in (ROOT / "docs/evaluation.md").read_text()


def test_no_figure_stands_beside_nothing() -> None:
    shown, more = CASES["retained"]
    once = Reader(render(shown, replace(more, curve=more.curve[:1]))).text
    assert "How to read it" in once and "How the interval narrowed" not in once
    assert "How to read it" not in Reader(report("retained")).text


def test_figures_say_what_they_show() -> None:
    figures = [attributes for tag, attributes in Reader(report("retained")).elements if tag == "svg"]
    assert len(figures) == 5
    assert all(figure["role"] == "img" and len(figure["aria-label"] or "") > 40 for figure in figures)
    assert "61,200 tokens" in (figures[2]["aria-label"] or "")
    heat = [text for text in Reader(report("retained")).words if text in ("q_proj", "down_proj", "25")]
    assert heat == ["25", "q_proj", "down_proj"]


def test_a_model_against_itself_has_a_page_without_a_histogram() -> None:
    same = Interval(1, 1, 1)
    metric = replace(RETAINED.metrics[0], candidate=RETAINED.metrics[0].baseline, retention=same)
    itself = replace(RETAINED, metrics=(metric,), divergence=Divergence(Interval(0, 0, 0), 0, 0, same, 0, 0))
    zeros = replace(NOTHING, divergence=np.zeros(500), agreement=np.ones(100), curve=((8, 1, 1, 1), (16, 1, 1, 1)))
    reader = Reader(render(itself, zeros))
    assert "perplexity keeps 100.0 % of the baseline (at least 100.0 %" in reader.text
    assert "0 nats (0 to 0)" in reader.text
    assert "Both predict the same at all 500 tokens." in reader.text
    assert len([tag for tag, _ in reader.elements if tag == "svg"]) == 2


def test_tokens_that_are_left_out_of_the_histogram_are_told() -> None:
    few = replace(NOTHING, divergence=np.array([0.0, 1e-9, 2e-5, *np.geomspace(0.01, 0.9, 997)]))
    text = Reader(render(RETAINED, few)).text.replace("\u00a0", " ")
    assert "Left out: 3 tokens (0.3 %) below 0.01, which hardly differ." in text
    assert "each mark on the axis is 10 times the one before" in text
    wide = replace(NOTHING, divergence=np.geomspace(1e-6, 100, 1000))
    text = Reader(render(RETAINED, wide)).text
    assert "Left out" not in text and "each mark on the axis is 100 times the one before" in text


def test_what_is_no_number_is_said_to_be_none() -> None:
    nan = float("nan")
    metric = replace(LOST.metrics[0], candidate=nan, retention=Interval(nan, nan, nan), verdict=Verdict.LOST)
    failed = replace(LOST, metrics=(metric,), divergence=None, failures=("perplexity is NaN",))
    text = Reader(render(failed, NOTHING)).text
    assert "Lost: perplexity is NaN" in text and "not a number" in text


@pytest.mark.parametrize(
    ("name", "stack", "layer", "kind"),
    [
        ("model.layers.12.mlp.down_proj", "model.layers", 12, "mlp.down_proj"),
        ("model.layers.3.mlp.experts.17.w1", "model.layers", 3, "mlp.experts.w1"),
        ("blk.7.ffn_down.weight", "blk", 7, "ffn_down"),
        ("/encoder/layer.5/attention/self/query/MatMul", "encoder.layer", 5, "attention.self.query.MatMul"),
        ("transformer.h.0", "transformer.h", 0, "h"),
    ],
)
def test_the_place_of_a_module_is_in_its_name(name: str, stack: str, layer: int, kind: str) -> None:
    found = place(name)
    assert found and (found.stack, found.layer, found.kind) == (stack, layer, kind)
    assert place("lm_head") is None


def test_a_table_of_weights_shows_the_worst_of_what_it_joins() -> None:
    deep = table([WeightError(f"layers.{layer}.w", "", layer / 1000) for layer in range(1000)])
    assert (
        len(deep.errors[0]) <= MAX_COLUMNS
        and deep.errors[0][-1] == 0.999
        and deep.errors[0][0] == (deep.step - 1) / 1000
    )
    many = table([WeightError(f"layers.0.w{kind}", "", kind) for kind in range(40)])
    assert many.left == 40 - MAX_KINDS and many.kinds[-1] == "w39"
    experts = table([WeightError(f"layers.0.experts.{expert}.w", "", expert) for expert in range(9)])
    assert experts.errors == ((8,),)
    two = table([WeightError(name, "", 1) for name in ("a.layers.0.q", "b.layers.0.q", "lm_head")])
    assert two.kinds == ("a.layers.q", "b.layers.q") and two.outside == 1


@pytest.mark.parametrize("layers", [28, 80])
def test_shades_of_the_weights_tell_them_apart_however_alike_they_are(layers: int) -> None:
    errors = np.random.default_rng(1).normal(0.0263, 0.0001, layers * len(KINDS))
    alike = [replace(one, error=float(error)) for one, error in zip(weights(layers), errors, strict=True)]
    assert shades_of(alike) == {f"h{number}" for number in range(1, 7)}
    text = Reader(render(LOST, replace(NOTHING, weights=tuple(alike)))).text
    assert "leave out" not in text and "leave out" in Reader(report("lost")).text
    assert "No module stands out: the largest error is 2." in text
    edges = re.findall(r"from (2\.\d+)", text)
    assert len(set(edges)) == 5 and edges == sorted(edges)


def test_one_damaged_module_has_a_shade_of_its_own() -> None:
    damaged = [*weights(30)]
    damaged[100] = replace(damaged[100], error=0.4)
    assert {"h1", "h6"} <= shades_of(damaged) and plots.heat(table(damaged)).count("var(--h6)") == 1
    assert "stands out" not in Reader(render(RETAINED, replace(NOTHING, weights=tuple(damaged)))).text


def test_weights_that_are_all_the_same_have_one_shade() -> None:
    same = tuple(replace(one, error=0.02) for one in weights(30))
    assert shades_of(same) == {"h1"} and "all 2.00" in Reader(render(RETAINED, replace(NOTHING, weights=same))).text
    none = tuple(replace(one, error=0.0) for one in weights(30))
    assert "weights" not in Reader(render(RETAINED, replace(NOTHING, weights=none))).headings


def shades_of(errors: Sequence[WeightError]) -> set[str]:
    return set(re.findall(r"var\(--(h\d)\)", plots.heat(table(errors))))


@pytest.mark.parametrize("scale", [0.0001, 1, 50])
def test_shades_tell_the_tokens_of_a_passage_apart_however_far_the_models_are(scale: float) -> None:
    random = np.random.default_rng(2)
    far = (0.0, *(scale * np.exp(random.normal(-4, 0.9, 255))).tolist())
    (only,) = passages.shown((Passage(tuple(f" w{at}" for at in range(256)), far),))
    levels = [token.level for token in only.tokens]
    assert 0.6 < levels.count(0) / 256 < 0.95 and {0, 1, 2, 3} <= set(levels)
    assert [token.piece for token in only.worst] == [f"w{at}" for at in np.argsort(far)[:-4:-1]]
    text = Reader(render(RETAINED, replace(NOTHING, passages=(Passage(tuple("abc"), (0, scale, 0)),)))).text
    assert f"the largest: b {nats(scale)}" in text


def test_a_passage_of_which_no_token_differs_is_not_among_the_worst() -> None:
    same, broken = Passage(("a", "b"), (0.0, 1e-9)), Passage(("c", "d"), (0.0, float("nan")))
    found = list(passages.shown((same, broken)))
    assert [[token.piece for token in one.worst] for one in found] == [["d"]]
    assert "passages" not in Reader(render(RETAINED, replace(NOTHING, passages=(same,)))).headings


def test_digits_never_hide_on_which_side_of_the_threshold_an_end_is() -> None:
    assert digits(Interval(0.96, 0.97, 0.98), 0.99) == 1
    assert digits(Interval(0.98, 0.985, 0.98996), 0.99) == 3
    assert digits(Interval(0.98999, 0.995, 1), 0.98995) == 3
    assert digits(Interval(0.9980, 0.9981, 0.9982), 0.9) == 2
    assert digits(Interval(0.99, 0.99, 0.99), 0.99) == 1
    near = Metric("accuracy", 1, 1, Interval(0.98, 0.985, 0.98996), "", is_gated=True, verdict=Verdict.LOST)
    assert "at most 98.996 %, asked for: 99 %" in Reader(render(replace(LOST, metrics=(near,)), NOTHING)).text


def test_numbers_have_sensible_digits() -> None:
    spaced = {
        percent(0.57): "57.0 %",
        percent(-0.0001): "0.0 %",
        number(21.4375): "21.44",
        number(12345.678): "12,346",
        number(0.000012): "1.20e\u221205",
        nats(0.0221): "0.022",
        nats(2.174): "2.2",
        nats(0.00001): "1e\u22125",
        nats(1e-9): "0",
        size(0): "0 B",
        size(1023): "1,023 B",
        size(256 * MEBI): "256.0 MiB",
        size(5 << 60): "5,242,880.0 TiB",
    }
    assert {key.replace("\u00a0", " "): value for key, value in spaced.items()} == {
        value: value for value in spaced.values()
    }


def test_a_long_text_is_cut_where_it_is_seen() -> None:
    assert visible("a\u00a0b\u200dc") == "a\u00a0b\u200dc"
    assert visible("\x07" * 9, 6) == "\\u{7}…"
    assert len(visible("\u202e" * 9, 9)) == 9


LIGHT = """
    const light = text => {
        const [red, green, blue] = text.match(/[\\d.]+/g).slice(0, 3).map(value => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
"""
SHADES = f"""
(name => {{
    {LIGHT}
    const of = [...document.querySelectorAll(name)];
    return of.map(element => light(getComputedStyle(element).backgroundColor));
}})
"""
READ = "main, h1, .lead, .tag, .legend [class], figcaption, code, .text span, summary, summary span"
LOOKS = f"""
[...document.querySelectorAll('{READ}')].map(element => {{
    {LIGHT}
    const style = getComputedStyle(element);
    const own = style.backgroundColor;
    const ground = own === 'rgba(0, 0, 0, 0)' ? getComputedStyle(document.body).backgroundColor : own;
    const [dark, bright] = [light(style.color), light(ground)].sort((one, other) => one - other);
    return (bright + 0.05) / (dark + 0.05);
}})
"""
CUT = """
[...document.querySelectorAll('.verdict, .wide td, .wide tbody th')].filter(element => {
    const box = element.getBoundingClientRect(), frame = element.closest('.wide').getBoundingClientRect();
    return !box.width || box.left < frame.left - 1 || box.right > frame.right + 1;
}).map(element => element.outerHTML.slice(0, 80))
"""
BARS = "[...document.querySelectorAll('.bar')].map(element => element.getBoundingClientRect().width)"
OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap(figure => {
    const texts = [...figure.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    return texts.flatMap(([one, a], index) => texts.slice(index + 1).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5).map(([other]) => `${one} / ${other}`));
})
"""
BEYOND = """
[...document.querySelectorAll('body *')].filter(element => !element.closest('.wide, .passages, svg')
    && element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 80))
"""
INKS = """
[...document.querySelectorAll('svg text, svg path')].filter(element => !element.closest('defs'))
    .map(element => getComputedStyle(element)).flatMap(style => [style.fill, style.stroke])
    .filter(colour => colour.startsWith('rgb('))
"""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [1280, 360])
def test_a_browser_shows_it_wide_and_narrow_in_light_and_dark(
    chromium: Browser, tmp_path: Path, name: str, width: int
) -> None:
    page = tmp_path / "report.html"
    page.write_text(report(name), encoding="utf-8")
    chromium.complaints.clear()
    chromium.requests.clear()
    seen = {}
    for scheme, is_dark in SCHEMES.items():
        chromium.show(page, width, is_dark=is_dark)
        assert chromium.value("document.documentElement.scrollWidth") == chromium.value("innerWidth") == width
        assert chromium.value(BEYOND) == []
        assert chromium.value(CUT) == [], "a part of a table that one sees by scrolling alone"
        assert chromium.value(OVERLAPS) == [], "texts of a figure that lie on each other"
        assert min(chromium.value(LOOKS)) >= 4.5, "text that is hard to read"
        for shades in (".ramp i", ".legend [class]"):
            found = chromium.value(f"({SHADES.strip()})('{shades}')")
            assert all(is_step(*pair) for pair in itertools.pairwise(found)), "shades that look alike"
        seen[scheme] = chromium.value("getComputedStyle(document.body).backgroundColor"), set(chromium.value(INKS))
    assert seen["light"][0] != seen["dark"][0]
    assert not seen["light"][1] & seen["dark"][1], "a figure has a colour that does not change"
    assert chromium.value("document.scripts.length") == 0
    assert chromium.complaints == []
    assert {address for address in chromium.requests if not address.startswith("data:")} == {page.as_uri()}


def is_step(one: float, other: float) -> bool:
    """Whether a shade of that luminance is told from the next."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05) > 1.15


@pytest.mark.parametrize("width", [1280, 360])
def test_bars_are_as_long_as_what_they_stand_for(chromium: Browser, tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    sizes = [Size((("model.safetensors", count),), MEBI) for count in (1500 * MEBI, 500 * MEBI)]
    page.write_text(render(RETAINED, Details(sizes[0], sizes[1])), encoding="utf-8")
    chromium.show(page, width, is_dark=False)
    before, after = chromium.value(BARS)  # of the weights; memory is of another kind, and has none
    assert after / before == pytest.approx(1 / 3, rel=0.02) and before > 50


@pytest.mark.parametrize("spread", [0.01, 0.3, 4])
@pytest.mark.parametrize("layers", [2, 28])
def test_no_texts_of_a_figure_overlap_however_the_numbers_lie(
    chromium: Browser, tmp_path: Path, spread: float, layers: int
) -> None:
    random = np.random.default_rng(3)
    narrow = np.exp(random.normal(-4, spread, 500))
    shown = replace(CASES["retained"][1], divergence=narrow, agreement=np.ones(9), weights=tuple(weights(layers)))
    page = tmp_path / "report.html"
    page.write_text(render(RETAINED, shown), encoding="utf-8")
    for width in (1280, 360):
        chromium.show(page, width, is_dark=False)
        assert chromium.value(OVERLAPS) == []


def test_the_browser_tells_what_is_wrong_with_a_page(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<body style='width:2000px'><script>console.error(1)</script><img src='gone.png'>")
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.show(page, 390, is_dark=False)
    assert chromium.value("document.documentElement.scrollWidth") >= 2000
    assert len(chromium.complaints) >= 2
    assert any(address.endswith("gone.png") for address in chromium.requests)
