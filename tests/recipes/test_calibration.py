"""Calibration samples are chosen alike everywhere, from files of every form, and whatever is wrong is said."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tracemalloc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from recipes import calibration
from recipes import rows as forms
from recipes.calibration import DEFAULT, LEAST, OWN, Samples, read_samples
from recipes.rows import MAX_LINE, SAMPLE
from registry.errors import UsageError

WORDS = [{"text": f"sample {number}"} for number in range(100)]
SHIPPED = 128


def lines(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def only(path: Path, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What becomes of one row."""
    (made,) = read_samples(lines(path / "one.jsonl", [row]), 1, 0).rows
    return made


def texts(samples: Samples) -> list[str]:
    return [row["text"] for row in samples.rows]


def failure(path: Path, count: int | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_samples(path, count, 0)
    assert "\n" not in caught.value.what
    return caught.value


# ---- the shipped set


def test_the_shipped_set_is_whole() -> None:
    samples = read_samples(None, None, 0)
    assert samples.origin == "packer's own"
    assert samples.digest == f"sha256:{hashlib.sha256(OWN.read_bytes()).hexdigest()}"
    written = [json.loads(line) for line in OWN.read_text(encoding="utf-8").splitlines()]
    assert len(samples.rows) == len(written) == SHIPPED
    assert sorted(map(str, samples.rows)) == sorted(map(str, written))


def test_the_shipped_set_is_a_set_of_conversations() -> None:
    questions = set()
    for row in read_samples(None, None, 0).rows:
        roles = [turn["role"] for turn in row["messages"]]
        spoken = roles[1:] if roles[0] == "system" else roles
        assert spoken == ["user", "assistant"] * (len(spoken) // 2)
        assert all(turn["content"] == turn["content"].strip() != "" for turn in row["messages"])
        assert 250 < sum(len(turn["content"]) for turn in row["messages"]) < 3000
        questions.add(row["messages"][len(roles) - len(spoken)]["content"])
    assert len(questions) == SHIPPED


# ---- the choice


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", WORDS)
    for name in ("one", "two"):
        read_samples(source, 40, 7).write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert texts(read_samples(source, 40, 7)) != texts(read_samples(source, 40, 8))


def test_the_order_is_that_of_the_numbers_drawn(tmp_path: Path) -> None:
    draw = random.Random(5).random
    numbers = [draw() for _ in WORDS]
    expected = [f"sample {at}" for at in sorted(range(100), key=numbers.__getitem__)]
    source = lines(tmp_path / "a.jsonl", WORDS)
    assert texts(read_samples(source, None, 5)) == expected
    assert texts(read_samples(source, 30, 5)) == expected[:30]


def test_the_order_on_every_machine(tmp_path: Path) -> None:
    chosen = texts(read_samples(lines(tmp_path / "a.jsonl", WORDS), 4, 0))
    assert chosen == ["sample 40", "sample 35", "sample 52", "sample 97"]


def test_every_row_has_the_same_chance(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", WORDS[:20])
    drawn = [text for seed in range(400) for text in texts(read_samples(source, 5, seed))]
    assert all(60 < drawn.count(row["text"]) < 145 for row in WORDS[:20])


def test_a_row_without_text_gives_way(tmp_path: Path) -> None:
    empty: list[object] = [{"text": " \n"}, {"text": ""}, {"other": "x"}, {}, {"messages": []}, {"text": 3}] * 5
    chosen = texts(read_samples(lines(tmp_path / "a.jsonl", [*empty, *WORDS[:30]]), 30, 1))
    assert sorted(chosen) == sorted(row["text"] for row in WORDS[:30])


def test_none_means_all_but_not_more_than_the_default(tmp_path: Path) -> None:
    many = [{"text": str(number)} for number in range(DEFAULT + 1)]
    assert len(read_samples(lines(tmp_path / "a.jsonl", many[:-1]), None, 0).rows) == DEFAULT
    assert len(read_samples(lines(tmp_path / "b.jsonl", many), None, 0).rows) == DEFAULT
    assert len(read_samples(lines(tmp_path / "b.jsonl", many), DEFAULT + 1, 0).rows) == DEFAULT + 1
    assert len(read_samples(lines(tmp_path / "c.jsonl", many[:LEAST]), None, 0).rows) == LEAST


def test_what_was_not_drawn_is_not_parsed(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", WORDS)
    drawn = [int(text.split()[1]) for text in texts(read_samples(source, 100, 0))]
    body = source.read_text().splitlines()
    body[-1] = "not json"
    source.write_text("\n".join(body))
    assert drawn.index(99) >= 4
    assert len(read_samples(source, 4, 0).rows) == 4
    assert failure(source, 100).subject == f"{source}:100"


# ---- what a row means


@pytest.mark.parametrize(
    ("row", "made"),
    [
        ({"text": " a ", "id": 4}, {"text": " a "}),
        ({"content": "a"}, {"text": "a"}),
        ({"prompt": "a"}, {"text": "a"}),
        ({"prompt": "a ", "completion": "b"}, {"text": "a b"}),
        ({"prompt": "a", "response": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"instruction": "a", "input": "", "output": "c"}, [("user", "a"), ("assistant", "c")]),
        ({"instruction": "a", "input": "b", "output": "c"}, [("user", "a\n\nb"), ("assistant", "c")]),
        ({"instruction": "a"}, [("user", "a")]),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}]},
            [("system", "s"), ("user", "a")],
        ),
        ({"conversations": [{"from": "gpt", "value": "b"}]}, [("assistant", "b")]),
        ({"messages": [{"role": "tool", "content": "b", "name": "x"}], "prompt": "p"}, [("tool", "b")]),
        ({"messages": [{"role": "user", "content": ["b"]}], "text": "t"}, {"text": "t"}),
        ({"messages": [{"role": "user", "content": "b"}, "c"], "content": "t"}, {"text": "t"}),
        ({"messages": [{"role": "user", "content": "b"}, {"role": "tool", "content": []}], "text": "t"}, {"text": "t"}),
        ({"messages": None, "conversations": "x", "text": "t"}, {"text": "t"}),
        ({"text": None, "prompt": 5, "instruction": [], "content": "t"}, {"text": "t"}),
        ({"text": "Grüße, 世界 \u2028 \x00"}, {"text": "Grüße, 世界 \u2028 \x00"}),
    ],
)
def test_rows_of_every_shape(tmp_path: Path, row: dict[str, Any], made: Any) -> None:
    if isinstance(made, list):
        made = {"messages": [{"role": role, "content": content} for role, content in made]}
    assert only(tmp_path, row) == made


# ---- files of every form


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    rows = [*WORDS[:20], {"text": "ü\u2028\n€"}, {"messages": [{"role": "user", "content": "x"}]}]
    samples = read_samples(lines(tmp_path / "a.jsonl", rows), None, 3)
    samples.write(tmp_path / "made" / "b.jsonl")
    raw = (tmp_path / "made" / "b.jsonl").read_bytes()
    assert raw.count(b"\n") == 22 and raw.endswith(b"\n") and "ü".encode() in raw
    assert [json.loads(line) for line in raw.split(b"\n")[:-1]] == list(samples.rows)
    assert samples.origin == str(tmp_path / "a.jsonl")


def test_lines_of_windows(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in WORDS[:16])
    (tmp_path / "a.NDJSON").write_bytes(raw)
    assert sorted(texts(read_samples(tmp_path / "a.NDJSON", None, 0))) == sorted(row["text"] for row in WORDS[:16])


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_a_list_is_as_good_as_lines(tmp_path: Path, mark: bytes) -> None:
    listed, lined = tmp_path / "a.json", tmp_path / "b.json"
    listed.write_bytes(mark + json.dumps(WORDS, indent=1).encode())
    expected = read_samples(lines(lined, WORDS), 50, 2).rows
    assert read_samples(listed, 50, 2).rows == expected
    assert len(expected) == 50


@pytest.mark.parametrize("options", [{}, {"row_group_size": 7}, {"compression": "zstd"}])
def test_parquet_is_as_good_as_lines(tmp_path: Path, options: dict[str, Any]) -> None:
    rows: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": f"é {at}"}], "id": at} for at in range(90)]
    rows[40:60] = [{"messages": None, "id": at} for at in range(20)]
    made = read_samples(table(tmp_path / "a.parquet", rows, **options), 70, 4)
    assert made.rows == read_samples(lines(tmp_path / "b.jsonl", rows), 70, 4).rows
    assert made.digest == f"sha256:{hashlib.sha256((tmp_path / 'a.parquet').read_bytes()).hexdigest()}"


def test_parquet_of_alpaca(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "input": "", "output": "b", "text": None, "score": 1.0}]
    (made,) = read_samples(table(tmp_path / "a.parquet", rows), 1, 0).rows
    assert [turn["content"] for turn in made["messages"]] == ["a", "b"]


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_plain_text_becomes_whole_paragraphs(tmp_path: Path, name: str) -> None:
    paragraphs = [f"# {at}\n" + "word " * (20 + at) + "end." for at in range(200)]
    (tmp_path / name).write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    made = texts(read_samples(tmp_path / name, None, 0))
    assert sorted("\n\n".join(made).split("\n\n")) == sorted(paragraphs)
    full = sorted(map(len, made))[1:]
    assert full[0] >= SAMPLE - 2 and full[-1] < SAMPLE + 1200


def test_a_paragraph_without_end_is_cut_at_a_line(tmp_path: Path) -> None:
    rows = [f"{at:03} " + "é" * 95 for at in range(1000)]
    (tmp_path / "a.txt").write_text("\n".join(rows), encoding="utf-8")
    made = sorted(texts(read_samples(tmp_path / "a.txt", None, 0)))
    assert "\n".join(made).split("\n") == rows
    assert {len(text) for text in made} == {40 * 100 - 1}


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deeper").mkdir(parents=True)
    table(folder / "b.parquet", WORDS[10:20])
    lines(folder / "a.jsonl", WORDS[:10])
    (folder / "README.md").write_text("about the set\n")
    (folder / "c.csv").write_text("text\nx\n")
    lines(folder / ".hidden.jsonl", [{"text": "hidden"}])
    lines(folder / "deeper" / "d.jsonl", [{"text": "deep"}])
    samples = read_samples(folder, None, 9)
    assert texts(samples) == texts(read_samples(lines(tmp_path / "all.jsonl", WORDS[:20]), None, 9))
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.jsonl", "b.parquet")]
    assert samples.digest == "sha256:" + hashlib.sha256("".join(f"sha256:{d}\n" for d in digests).encode()).hexdigest()
    (folder / "a.jsonl").rename(folder / "z.jsonl")
    assert read_samples(folder, None, 9).digest != samples.digest


# ---- what is wrong


def test_too_few_rows_for_what_was_asked(tmp_path: Path) -> None:
    error = failure(lines(tmp_path / "a.jsonl", WORDS), 512)
    assert error.what == "asks for 512 samples, found 100"
    assert error.hint == "--samples 100, or give more"
    assert error.subject == str(tmp_path / "a.jsonl")


def test_too_few_rows_at_all(tmp_path: Path) -> None:
    error = failure(lines(tmp_path / "a.jsonl", WORDS[: LEAST - 1]))
    assert "16 samples at least" in error.what and "found 15" in error.what
    assert len(read_samples(tmp_path / "a.jsonl", LEAST - 1, 0).rows) == LEAST - 1


@pytest.mark.parametrize("count", [0, -1, 65_537])
def test_numbers_that_are_none(count: int) -> None:
    with pytest.raises(UsageError, match="no number of samples"):
        read_samples(None, count, 0)


def test_no_row_has_text(tmp_path: Path) -> None:
    error = failure(lines(tmp_path / "a.jsonl", [{"question": "a", "ans\x1bwer": "b"}, {"text": ""}]))
    assert error.what == "a file of samples with no text"
    assert error.subject == f"{tmp_path / 'a.jsonl'}:1"
    assert error.found == "keys question, ans\ufffdwer"
    assert "conversations" in str(error.expected) and error.hint


def test_no_column_has_text(tmp_path: Path) -> None:
    error = failure(table(tmp_path / "a.parquet", [{"question": "a", "answer": "b"}]))
    assert error.what == "a file of samples with no text"
    assert error.found == "keys question, answer"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert failure(tmp_path / name).found == "no rows"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "a"', "not JSON"),
        (b"nonsense", "not JSON"),
        (b'{"text": "a", "text": "b"}', "twice"),
        (b'["a"]', "no object"),
        (b'"a"', "no object"),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff at position 11"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": ' + b"[" * 100_000 + b"}", "not JSON"),
        (b'{"text": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: bytes, what: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    error = failure(source)
    assert what in error.what
    assert error.subject == f"{source}:3"


@pytest.mark.parametrize(("raw", "what"), [(b'[{"text": "a"}', "not JSON"), (b'["\xe9"]', "byte 0xe9 at position 3")])
def test_bad_lists_are_named(tmp_path: Path, raw: bytes, what: str) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    error = failure(tmp_path / "a.json")
    assert what in error.what and error.subject == str(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
def test_rows_are_counted_from_one(tmp_path: Path, name: str) -> None:
    rows = [{"text": "fine"}, {"text": "fine too"}, {"text": "x" * (MAX_LINE + 1)}]
    if name == "a.parquet":
        table(tmp_path / name, rows)
    else:
        (tmp_path / name).write_text(json.dumps(rows))
    assert failure(tmp_path / name).subject == f"{tmp_path / name}:3"


def test_plain_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\n\nfine\ncaf\xe9\n")
    error = failure(tmp_path / "a.txt")
    assert "byte 0xe9 at position 9" in error.what
    assert error.subject == f"{tmp_path / 'a.txt'}:3"


def test_parquet_that_is_none(tmp_path: Path) -> None:
    whole = table(tmp_path / "a.parquet", WORDS).read_bytes()
    for raw in (b"", b"PAR1 nonsense PAR1", whole[:-9], b"\0" * 64 + whole[64:]):
        (tmp_path / "a.parquet").write_bytes(raw)
        assert failure(tmp_path / "a.parquet").subject.startswith(str(tmp_path / "a.parquet"))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = table(tmp_path / "a.parquet", WORDS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = failure(source)
    assert "pyarrow" in error.what and error.hint == "pip install 'packer[quantize]'"


@pytest.mark.parametrize("name", ["a.csv", "a", "a.jsonl.gz"])
def test_files_of_other_kinds(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x\n")
    assert ".parquet" in str(failure(tmp_path / name).expected)


def test_places_where_nothing_is(tmp_path: Path) -> None:
    assert "No such file" in failure(tmp_path / "a.jsonl").what
    (tmp_path / "c.csv").write_text("x\n")
    assert "no file of samples" in failure(tmp_path).what
    assert "neither a file" in failure(Path("/dev/null")).what


def test_long_lines(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    fits = b'{"text": "' + b"x" * (MAX_LINE - 13) + b'"}\n'
    assert len(fits) == MAX_LINE
    source.write_bytes(fits)
    assert len(read_samples(source, 1, 0).rows) == 1
    source.write_bytes(b"{}\n" + fits.replace(b"xx", b"xxx", 1))
    error = failure(source)
    assert "too large" in error.what and error.subject == f"{source}:2"


def test_long_cells(tmp_path: Path) -> None:
    error = failure(table(tmp_path / "a.parquet", [{"text": "x" * (MAX_LINE + 1)}]))
    assert "too long" in error.what and error.subject.endswith(":1")


@pytest.mark.parametrize(
    ("name", "limit"), [("a.jsonl", "MAX_FILE"), ("a.parquet", "MAX_FILE"), ("a.json", "MAX_LIST")]
)
def test_large_files(tmp_path: Path, name: str, limit: str) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.write(b"[")
        stream.truncate(getattr(forms, limit) + 1)
    error = failure(tmp_path / name)
    assert "too large" in error.what and str(getattr(forms, limit)) in str(error.expected)


@pytest.mark.parametrize(("limit", "most"), [("MAX_ROWS", 50), ("MAX_TEXT", 300), ("_MAX_GROUP", 10)])
def test_other_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    source = table(tmp_path / "a.parquet", WORDS)
    read_samples(source, None, 0)
    monkeypatch.setattr(forms if limit == "_MAX_GROUP" else calibration, limit, most)
    assert str(most) in str(failure(source).expected)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_blank_lines_come_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(forms, "MAX_LINES", 50)
    (tmp_path / name).write_bytes(b"\n" * 51)
    error = failure(tmp_path / name)
    assert error.what == "too many lines" and error.subject == f"{tmp_path / name}:51"


def test_the_length_counts_only_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MAX_TEXT", 90)
    assert len(read_samples(lines(tmp_path / "a.jsonl", WORDS), 10, 0).rows) == 10


def test_memory_holds_only_what_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    with source.open("wb") as stream:
        stream.writelines(b'{"text": "%d %b"}\n' % (number, b"x" * 1000) for number in range(30_000))
    tracemalloc.start()
    read_samples(source, 32, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


# ---- what is no text


INPUTS: dict[str, Any] = {"x": [[1, 2.5], [True, -3]], "n": 4}


@pytest.mark.parametrize("form", ["a.jsonl", "a.json", "a.parquet"])
def test_inputs_of_an_onnx_model_go_through_as_they_are(tmp_path: Path, form: str) -> None:
    rows = [{"inputs": {"x": [[1.5, at / 2]], "n": at}} for at in range(20)]
    path = tmp_path / form
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        table(path, rows) if path.suffix == ".parquet" else lines(path, rows)
    samples = read_samples(path, None, 0)
    assert sorted(samples.rows, key=str) == sorted(rows, key=str)
    samples.write(tmp_path / "kept")
    assert tuple(map(json.loads, (tmp_path / "kept").read_text().splitlines())) == samples.rows


def test_what_inputs_may_be(tmp_path: Path) -> None:
    assert only(tmp_path, {"inputs": INPUTS, "id": 3}) == {"inputs": INPUTS}
    assert only(tmp_path, {"inputs": INPUTS, "text": "words"}) == {"text": "words"}
    deep = json.loads("[" * 32 + "1" + "]" * 32)
    assert only(tmp_path, {"inputs": {"x": deep}}) == {"inputs": {"x": deep}}
    wrongs: list[object] = ["words", [], {}, {"x": "words"}, {"x": [[None]]}, {"x": {"y": 1}}, {"x": [deep]}]
    for wrong in wrongs:
        assert "no text" in failure(lines(tmp_path / "wrong.jsonl", [{"inputs": wrong}]), 1).what


def test_inputs_are_as_long_as_other_rows_at_most(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"inputs": {"x": [0] * (MAX_LINE // 3 + 1)}}]))
    error = failure(path, 1)
    assert error.what == "this row is too long" and error.expected == f"at most {MAX_LINE} characters"
