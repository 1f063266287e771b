"""Scorecards that were published: found by what they are about, and read by people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from containers.evidence import CREATED, PREDICATE, PREDICATE_TYPE, REPORT, SCORECARD, STATEMENT
from formats.text import printable
from packer.evidence import VERDICT
from packer.look import artifact
from recipes.evaluation.report import words
from recipes.evaluation.report.verdict import extent, headline, outcome
from recipes.evaluation.scorecard import Interval, Metric, Party, Scorecard
from registry.access import Access
from registry.blob import Blob, read_all
from registry.descriptor import Descriptor, Digest
from registry.errors import ContentError, ModelError, UsageError
from registry.manifest import Index, Manifest, parse_json_object
from registry.reference import LayoutReference, Reference
from registry.store import Source, open_store

MAX_DOCUMENT, MAX_REPORT = 1 << 20, 16 << 20
"""Bytes of a scorecard, and of a report."""

MAX_LIST, MAX_TEXT = 200, 2000
"""Metrics, failures or versions of a scorecard, and characters of a text in it."""

MAX_FETCHED = 100
"""Scorecards of one manifest that are looked at, by what the list says the newest."""


_ABSURD = 1 << 63


@dataclass(frozen=True)
class Published:
    """A scorecard, the `document` that it was read from, and the digest of the referrer that it lies in."""

    scorecard: Scorecard
    document: dict[str, Any]
    digest: Digest
    report: Blob | None

    def read_report(self) -> bytes:
        """The page of HTML beside it; `ModelError` if there is none, `ContentError` if it is damaged or too long."""
        if not self.report:
            raise ModelError("no report lies beside this scorecard", subject=self.digest)
        return read_all(self.report, MAX_REPORT)


def fetch_scorecard(text: str, access: Access) -> tuple[Published, Reference | LayoutReference]:
    """The scorecard of what `text` names (an image index, an image of it, a ModelPack manifest, or the referrer itself)
    and the reference of its referrer: of several, the one that was measured last.

    `ModelError` if there is none: the registry has done nothing wrong.
    """
    reference = artifact(text)
    if not reference:
        hint = "packer evaluate measures a model that is not published"
        raise UsageError("this is no published artifact", subject=text, hint=hint)
    store = open_store(reference, access)
    if published := find_scorecard(store.resolve(reference.name), store):
        return published, reference.at(published.digest)
    raise ModelError(
        "nothing is published of an evaluation of this model",
        subject=str(reference),
        hint=f"packer evaluate {text} --baseline SOURCE measures it; packer build MODEL --to DEST --quantize RECIPE "
        "--evaluate fidelity publishes one with its scorecard",
    )


def find_scorecard(root: Manifest | Index, source: Source) -> Published | None:
    """The scorecard about a manifest, the last of several; None if there is none."""
    if held := _held(root, source):
        return held
    digest = root.descriptor.digest
    entries = [entry for entry in source.referrers(digest) if is_ours(entry)]
    newest = sorted(entries, key=lambda entry: entry.annotations.get(CREATED, ""), reverse=True)[:MAX_FETCHED]
    manifests = [source.resolve(entry.digest) for entry in newest]
    about = [manifest for manifest in manifests if manifest.subject and manifest.subject.digest == digest]
    return _last(about, source)


def _last(manifests: Iterable[Manifest | Index], source: Source) -> Published | None:
    """The scorecard that was measured last; `ContentError` if there is none but such as are malformed."""
    best: Published | None = None
    wrong: ContentError | None = None
    for manifest in manifests:
        try:
            held = _held(manifest, source)
        except ContentError as error:  # anybody may attach something, which hides nothing
            wrong = wrong or error
            continue
        if held and (best is None or _time(held.scorecard) > _time(best.scorecard)):
            best = held
    if wrong and not best:
        raise wrong
    return best


def is_ours(entry: Descriptor) -> bool:
    """Whether a listed referrer may hold a scorecard: some registries list neither types nor annotations."""
    said = entry.annotations
    is_told = VERDICT in said and said.get(PREDICATE_TYPE) == PREDICATE
    return entry.artifact_type in (STATEMENT, "") and (is_told or not said)


def _held(manifest: Manifest | Index, source: Source) -> Published | None:
    """The scorecard in a referrer; None if this is none of ours."""
    if not isinstance(manifest, Manifest) or manifest.artifact_type != STATEMENT:
        return None
    by_type = {layer.media_type: source.blob(layer) for layer in reversed(manifest.layers)}
    if SCORECARD not in by_type:
        return None
    digest = manifest.descriptor.digest
    document = parse_json_object(read_all(by_type[SCORECARD], MAX_DOCUMENT), digest)
    return Published(_checked(Scorecard.from_json(document, digest), digest), document, digest, by_type.get(REPORT))


def _checked(scorecard: Scorecard, origin: str) -> Scorecard:
    """The scorecard, every member of its type; `ContentError` otherwise."""
    try:
        checked: Scorecard = TypeAdapter(Scorecard).validate_python(asdict(scorecard))
        _time(checked)
        parties = (checked.candidate, checked.baseline)
        if not all(0 <= size < _ABSURD for party in parties for size in (party.bytes, party.memory)):
            raise ValueError("a model of absurd size")
        if not _is_bounded(asdict(checked)):
            raise ValueError("a list or a text of absurd length")
    except (ValidationError, ValueError, RecursionError) as error:
        found = printable(str(error))[:300]
        raise ContentError("this scorecard is malformed", subject=origin, found=found) from error
    return checked


def _is_bounded(value: Any) -> bool:
    """Whether no list and no text is longer than anybody would write."""
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    inner = list(value.items()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return len(inner) <= MAX_LIST and all(map(_is_bounded, inner))


def _time(scorecard: Scorecard) -> datetime:
    moment = datetime.fromisoformat(scorecard.circumstances.time)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# ---------------------------------------------------------------- for people


def render(scorecard: Scorecard, advice: Iterable[str] = ()) -> str:
    """The scorecard for people: the verdict in its first line, then what it stands on, and last what one can do."""
    parties = (("candidate", scorecard.candidate), ("baseline", scorecard.baseline))
    lines = [headline(scorecard), f"{outcome(scorecard)} {extent(scorecard)}", ""]
    lines += [line for part, party in parties for line in (labelled(part, party.digest), labelled("", _party(party)))]
    lines += ["", *table(_rows(scorecard)), "", *_divergence(scorecard), *_circumstances(scorecard)]
    lines += [labelled("failure", failure) for failure in scorecard.failures]
    lines += [labelled("next", each) for each in advice]
    return plain(lines)


def plain(lines: Iterable[str]) -> str:
    """Lines for a terminal, whoever wrote what is in them."""
    return "\n".join(printable(line.replace("\u00a0", " ")).rstrip() for line in lines)


def labelled(label: str, text: str) -> str:
    """A line with a label."""
    return f"  {label:<11} {text}"


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines; numbers, which are all but the first and the last, are to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        sides = ["<", *(">" * (len(row) - 2)), "<"]
        yield "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))


def shares(retention: Interval, retain: float) -> tuple[str, str]:
    """A retention and the ends of its interval, with digits enough to see on which side of `retain` these are."""
    digits = words.digits(retention, retain)
    return words.percent(retention.estimate, digits), words.between(retention, digits)


def _rows(scorecard: Scorecard) -> list[list[str]]:
    header = ["metric", "baseline", "candidate", "retention", "between", "verdict"]
    return [header, *(_row(metric, scorecard.gate.retain) for metric in scorecard.metrics)]


def _row(metric: Metric, retain: float) -> list[str]:
    values = (words.number(metric.baseline), words.number(metric.candidate))
    verdict = metric.verdict.value if metric.is_gated else "(not gated)"
    return [metric.name, *values, *shares(metric.retention, retain), verdict]


def _party(party: Party) -> str:
    origin = f"{party.url}@{party.revision}" if party.url and party.revision else party.url
    made = f"by {party.recipe}" if party.recipe else ""
    memory = f"{words.size(party.memory)} of memory" if party.memory else ""
    kind = f"{party.format} {party.precision}".strip()
    return ", ".join(part for part in (party.name, origin, kind, made, words.size(party.bytes), memory) if part)


def _divergence(scorecard: Scorecard) -> Iterator[str]:
    if (divergence := scorecard.divergence) is None:
        return
    mean, agreed = divergences(divergence.mean), agreements(divergence.agreement)
    p99, most = words.nats(divergence.p99), words.nats(divergence.most)
    flips = f"{words.percent(divergence.lost, 2)} of the tokens lost, {words.percent(divergence.won, 2)} won"
    yield labelled("divergence", f"mean {mean[0]} nats ({mean[1]}), p99 {p99}, at most {most}")
    if any(metric.name == "agreement" for metric in scorecard.metrics):  # whose interval is that of the gate
        yield labelled("flips", flips)
    else:
        yield labelled("agreement", f"{agreed[0]} ({agreed[1]}); {flips}")


def divergences(mean: Interval) -> tuple[str, str]:
    """A divergence in nats, and the ends of its interval."""
    return words.nats(mean.estimate), f"{words.nats(mean.low)} to {words.nats(mean.high)}"


def agreements(agreement: Interval) -> tuple[str, str]:
    """A share of tokens, and the ends of its interval."""
    return words.percent(agreement.estimate), words.between(agreement, 1)


def _circumstances(scorecard: Scorecard) -> Iterator[str]:
    samples, how = scorecard.samples, scorecard.circumstances
    yield labelled("suite", f"{samples.suite}  {samples.suite_digest}")
    yield labelled("data", f"{samples.data}  {samples.data_digest}")
    if samples.needed:
        yield labelled("needed", f"{words.counted(samples.needed, samples.unit)}, to decide")
    yield labelled(
        "measured", f"{how.time}, by {how.backend} on {how.kind}, in {words.duration(how.seconds)}, seed {how.seed}"
    )
    yield labelled("versions", ", ".join(f"{name} {version}" for name, version in how.versions.items()))
    yield labelled("stopped", how.stopped)
