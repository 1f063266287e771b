"""The stage as a whole: which results are taken again or made again, what they depend on, and what room it takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from formats.checkpoint import Checkpoint
from formats.findings import RejectedError
from formats.reshard import shard
from packer.sources import parse_source
from recipes import quantize as stage
from recipes import workshop as place
from recipes.calibration import read_samples
from recipes.child import Answer
from recipes.fit import weight_files
from recipes.quantize import Quantization, Quantized, Workplace, _kind, _require_room, _workshop, quantize
from recipes.recipe import find_recipe
from recipes.size import result_size, room
from recipes.task import Step, Task, Tell
from registry.errors import ModelError
from tests.parts.layers import give_words, llama
from tests.parts.models import CACHE

SHARD = "model-00002-of-00003.safetensors"
SCALE = "model.layers.0.mlp.up_proj.weight_scale"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return give_words(llama(tmp_path_factory.mktemp("model") / "model"))


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(parse_source(str(folder)).fetch())


def by(recipe: str, folder: Path, environment: Mapping[str, str] | None = None) -> Quantization:
    found = find_recipe(recipe)
    where = Workplace(folder, environment or dict(os.environ), lambda file: file.blob.descriptor.digest)
    return Quantization(found, where, samples=read_samples(None, 16, 0) if found.calibration else None)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantized]:
    """The cache in which a real child made a result, and that."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, quantize(checkpoint(model), by("fp8-dynamic", cache))


class Children:
    """Stands in for real children, which take seconds: each gives what a real one has made, damaged if wanted."""

    def __init__(self, source: Path, answer: Answer) -> None:
        self._source, self._answer = source, answer
        self.damage: Callable[[Path], None] = lambda _: None
        self.count = 0

    def __call__(self, task: Task, environment: Mapping[str, str], tell: Tell) -> Answer:
        self.count += 1
        for path in self._source.glob("*.safetensors"):
            shutil.copy(path, task.target)
        self.damage(task.target)
        return self._answer


@pytest.fixture
def children(whole: tuple[Path, Quantized], monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    (source,) = whole[0].iterdir()
    answer = place.Workshop(source, source.name, is_single=False).recorded()
    assert answer
    made = Children(source, replace(answer, kind="NVIDIA H100"))
    monkeypatch.setattr(stage, "run_child", made)
    yield made


@pytest.fixture
def cache(whole: tuple[Path, Quantized], tmp_path: Path) -> Path:
    """A cache with the result, for a test to damage."""
    return Path(shutil.copytree(whole[0], tmp_path / "cache"))


def wrong_scale(folder: Path) -> None:
    tensors = load_file(folder / SHARD)
    tensors[SCALE][3] = float("nan")
    save_file(tensors, folder / SHARD, metadata={"format": "pt"})


def cut(folder: Path) -> None:
    os.truncate(folder / SHARD, (folder / SHARD).stat().st_size - 1)


def longer(folder: Path) -> None:
    with (folder / SHARD).open("ab") as file:
        file.write(b"x")


def no_header(folder: Path) -> None:
    size = (folder / SHARD).stat().st_size
    (folder / SHARD).write_bytes(b"\xff" * size)


def test_what_is_whole_is_taken_as_it_is(model: Path, cache: Path, children: Children) -> None:
    again = quantize(checkpoint(model), by("fp8-dynamic", cache))
    assert (again.account.is_new, children.count) == (False, 0)


@pytest.mark.parametrize("damage", [wrong_scale, cut, longer, no_header])
def test_what_is_damaged_is_made_again_once(
    model: Path, cache: Path, children: Children, damage: Callable[[Path], None]
) -> None:
    (work,) = cache.iterdir()
    damage(work)
    told: list[Step | str] = []
    again = quantize(checkpoint(model), replace(by("fp8-dynamic", cache), tell=told.append))
    assert (again.account.is_new, children.count) == (True, 1)
    assert torch.isfinite(load_file(work / SHARD)[SCALE]).all()
    assert len(told) == (damage in (wrong_scale, no_header))
    third = quantize(checkpoint(model), by("fp8-dynamic", cache))
    assert (third.account.is_new, children.count) == (False, 1)


def test_what_is_wrong_from_the_start_is_refused_and_does_not_stay(
    model: Path, tmp_path: Path, children: Children
) -> None:
    children.damage = wrong_scale
    with pytest.raises(RejectedError) as caught:
        quantize(checkpoint(model), by("fp8-dynamic", tmp_path / "cache"))
    assert SCALE in str(caught.value)
    (work,) = (tmp_path / "cache").iterdir()
    assert [path.name for path in work.iterdir()] == [".packer-key"]
    children.damage = lambda _: None
    assert quantize(checkpoint(model), by("fp8-dynamic", tmp_path / "cache")).account.is_new
    assert children.count == 2


def test_a_child_that_fails_leaves_what_is_whole(model: Path, tmp_path: Path, children: Children) -> None:
    def fail(_: Path) -> None:
        raise ModelError("the library fails")

    children.damage = fail
    with pytest.raises(ModelError):
        quantize(checkpoint(model), by("fp8-dynamic", tmp_path / "cache"))
    (work,) = (tmp_path / "cache").iterdir()
    assert (work / SHARD).exists()


# ---- where it was done


def test_the_card_says_what_computed(model: Path, tmp_path: Path, children: Children) -> None:
    """Not what the machine has: where PyTorch is built for CPUs, those do the work beside the best of GPUs."""
    first = quantize(checkpoint(model), by("fp8-dynamic", tmp_path / "cache"))
    second = quantize(checkpoint(model), by("fp8-dynamic", tmp_path / "cache"))
    for made in (first, second):
        card = made.checkpoint.snapshot.get("README.md")
        assert card
        with card.open() as stream:
            assert b", on NVIDIA H100 |" in stream.read()
        assert made.account.kind == "NVIDIA H100"
    assert [first.account.is_new, second.account.is_new] == [True, False]


def test_what_the_machine_has_counts_for_the_engine_that_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "kind_of", lambda *_: "NVIDIA H100")  # for want of one
    kinds = {recipe: _kind(by(recipe, tmp_path)) for recipe in ("fp8-dynamic", "onnx-int8-dynamic", "gguf-q8_0")}
    assert kinds == {"fp8-dynamic": "NVIDIA H100", "onnx-int8-dynamic": "cpu", "gguf-q8_0": "cpu"}


# ---- what counts


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *((name, True) for name in ("vocab.txt", "merges.txt", "spiece.model", "tekken.json", "tokenizer.json")),
        *((name, True) for name in ("chat_template.jinja", "generation_config.json")),
        *((name, False) for name in ("README.md", "LICENSE", "license.txt", "tf_model.h5")),
    ],
)
def test_all_that_may_have_a_part_in_tokens_counts_with_samples(
    model: Path, tmp_path: Path, name: str, counts: bool
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "copy"))
    (folder / name).parent.mkdir(exist_ok=True)

    def key(recipe: str) -> str:
        return _workshop(checkpoint(folder), by(recipe, tmp_path), {}).key

    recipes = ("fp8-static", "fp8-dynamic")
    (folder / name).write_text('{"a": 1}')
    before = [key(recipe) for recipe in recipes]
    (folder / name).write_text('{"a": 2}')
    after = [key(recipe) for recipe in recipes]
    assert [one != other for one, other in zip(before, after, strict=True)] == [counts, False]


# ---- room


def asked(model: Checkpoint, recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *made: str) -> int:
    """The bytes that must be free, when files of some names lie in the workshop."""
    sizes: list[int] = []
    monkeypatch.setattr(place, "require_free", lambda _, size, hint: sizes.append(size))
    how = by(recipe, folder)
    workshop = _workshop(model, how, {})
    with workshop.opened(how.tell):
        for name in made:
            (workshop.folder / name).write_bytes(bytes(1000))
        _require_room(model, how, workshop)
    return sizes[0]


def test_room_for_what_an_engine_makes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(model)
    result = result_size(find_recipe("fp8-dynamic"), source)
    assert asked(source, "fp8-dynamic", tmp_path, monkeypatch) == result
    assert asked(source, "fp8-dynamic", tmp_path, monkeypatch, SHARD, "something.else") == result - 1000
    assert asked(source, "fp8-static", tmp_path, monkeypatch, SHARD) == 2 * result_size(
        find_recipe("fp8-static"), source
    )
    file = next((CACHE / "real/silero-vad").glob("*.onnx"))
    assert room(find_recipe("onnx-int8-dynamic"), checkpoint(file)) == 3 * file.stat().st_size


def test_room_for_a_source_that_is_no_file_yet(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(model)
    recipe = find_recipe("fp8-dynamic")
    regrouped = shard(source, 100_000)
    loose = sum(file.size for file in weight_files(recipe, regrouped))
    assert len(weight_files(recipe, regrouped)) == 2
    assert asked(regrouped, "fp8-dynamic", tmp_path, monkeypatch) >= result_size(recipe, regrouped) + loose


def test_room_for_what_goes_along_with_the_only_result(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sizes = checkpoint(model), list[int]()
    monkeypatch.setattr(place, "require_free", lambda _, size, hint: sizes.append(size))
    for is_single in (False, True):
        workshop = place.Workshop(tmp_path / "work", "key", is_single)
        (tmp_path / "work").mkdir(exist_ok=True)
        _require_room(source, by("fp8-dynamic", tmp_path), workshop)
    weights = {path.name for path in model.glob("*.safetensors")}
    assert sizes[1] - sizes[0] == sum(path.stat().st_size for path in model.iterdir() if path.name not in weights)
