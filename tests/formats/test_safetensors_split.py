"""safetensors in other files: every value where it was, the reference library as judge, the same bytes every time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from formats.checkpoint import Checkpoint
from formats.order import natural, numbered
from formats.reshard import merge, shard
from packer.sources import parse_source
from registry.errors import ModelError, UsageError
from tests.parts import tiny
from tests.parts.models import digests

INDEX = "model.safetensors.index.json"


def check(folder: Path) -> Checkpoint:
    return Checkpoint(parse_source(str(folder)).fetch())


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    """The files of a checkpoint, as any reader of its blobs sees them."""
    for file in checkpoint.snapshot.files:
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        with file.open() as source, (folder / file.name).open("wb") as target:
            shutil.copyfileobj(source, target)
        assert (folder / file.name).stat().st_size == file.size
    return folder


def tensors(folder: Path) -> dict[str, bytes]:
    """All tensors of a folder as safetensors itself reads them: dtype, shape and bytes."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        for name, value in safetensors.deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
            assert name not in found
            found[name] = repr((value["dtype"], value["shape"])).encode() + bytes(value["data"])
    return found


def layers(count: int, width: int = 16) -> dict[str, numpy.ndarray]:
    values = numpy.random.default_rng(0)
    made = {
        f"model.layers.{layer}.{part}.weight": values.standard_normal((width, width), dtype=numpy.float32)
        for layer in range(count)
        for part in ("mlp.up", "attn.q")
    }
    return {**made, "model.embed.weight": values.standard_normal((4, width), dtype=numpy.float32)}


def model(folder: Path, made: dict[str, numpy.ndarray], **metadata: str) -> Path:
    folder.mkdir(parents=True)
    save_file(made, folder / "model.safetensors", metadata)
    return folder


def test_there_and_back(tmp_path: Path) -> None:
    source = model(tmp_path / "a", layers(12), format="pt", extra="kept")
    split = write(shard(check(source), 6000), tmp_path / "b")
    assert max(path.stat().st_size for path in split.glob("*.safetensors")) <= 6000
    assert tensors(split) == tensors(source)
    for path in split.glob("*.safetensors"):
        with safetensors.safe_open(path, framework="numpy") as file:
            assert file.metadata() == {"format": "pt", "extra": "kept"}
    index = json.loads((split / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in layers(12).values())
    assert set(index["weight_map"]) == set(layers(12))
    back = write(merge(check(split)), tmp_path / "c")
    assert [path.name for path in back.iterdir()] == ["model.safetensors"]
    assert tensors(back) == tensors(source)
    assert digests(write(shard(check(back), 6000), tmp_path / "d")) == digests(split)
    assert digests(write(merge(check(tmp_path / "d")), tmp_path / "e")) == digests(back)


def test_a_layer_stays_together_and_layers_are_in_order(tmp_path: Path) -> None:
    split = shard(check(model(tmp_path / "a", layers(12))), 6000)
    names = [tensor.name for tensor in split.tensors]
    assert names == sorted(names, key=natural)
    assert names.index("model.layers.9.mlp.up.weight") < names.index("model.layers.10.attn.q.weight")


def test_a_tensor_larger_than_the_limit_is_alone_and_noted(tmp_path: Path) -> None:
    made = {
        "a": numpy.zeros(10, numpy.float32),
        "b": numpy.zeros(5000, numpy.float32),
        "c": numpy.zeros(10, numpy.float32),
    }
    split = shard(check(model(tmp_path / "a", made)), 1000)
    assert [len(weights.tensors) for weights in split.read.values()] == [1, 1, 1]
    assert [(note.rule.id, note.tensor) for note in split.findings] == [("model-shard-oversize", "b")]


def test_large_elements_come_first_so_that_all_are_aligned(tmp_path: Path) -> None:
    made = {"a": numpy.zeros(3, numpy.uint8), "b": numpy.zeros(3, numpy.float64), "c": numpy.zeros(3, numpy.float16)}
    files = {f"model-0000{at}-of-00003.safetensors": {name: made[name]} for at, name in enumerate("abc", 1)}
    (tmp_path / "a").mkdir()
    for name, content in files.items():
        save_file(content, tmp_path / "a" / name)
    merged = merge(check(tmp_path / "a"))
    assert [tensor.name for tensor in merged.tensors] == ["b", "c", "a"]
    assert merged.findings == ()


def test_the_index_may_name_files_as_it_likes(tmp_path: Path) -> None:
    files = {
        "first.safetensors": tiny.safetensors_bytes({"a": tiny.tensor(0, 16)}, bytes(16)),
        "second.safetensors": tiny.safetensors_bytes({"b": tiny.tensor(0, 8)}, bytes(8)),
        INDEX: json.dumps(
            {"metadata": {"made": "by hand"}, "weight_map": {"a": "first.safetensors", "b": "second.safetensors"}}
        ).encode(),
    }
    merged = merge(check(tiny.write_folder(tmp_path, files)))
    assert [file.name for file in merged.snapshot.files] == ["model.safetensors"]
    split = shard(check(tmp_path), 100)
    names = [file.name for file in split.snapshot.files]
    assert names == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]
    with split.snapshot.files[-1].open() as stream:
        assert json.loads(stream.read())["metadata"] == {"made": "by hand", "total_size": 24}


def test_models_in_folders_keep_their_folders(tmp_path: Path) -> None:
    for folder in ("vae", "unet"):
        model(tmp_path / folder, layers(3))
    split = shard(check(tmp_path), 3000)
    assert {file.name.rpartition("/")[0] for file in split.snapshot.files} == {"vae", "unet"}
    assert len(list(write(split, tmp_path / "out").glob("*/model.safetensors.index.json"))) == 2


def test_small_enough_stays_as_it_is(tmp_path: Path) -> None:
    source = check(model(tmp_path / "a", layers(2)))
    assert shard(source, 1 << 30).snapshot == source.snapshot
    assert merge(source).snapshot == source.snapshot


def test_metadata_that_disagrees_is_not_merged(tmp_path: Path) -> None:
    for at in (1, 2):
        header = {"__metadata__": {"who": str(at)}, f"t{at}": tiny.tensor(0, 8)}
        (tmp_path / f"model-0000{at}-of-00002.safetensors").write_bytes(tiny.safetensors_bytes(header, bytes(8)))
    with pytest.raises(ModelError, match="otherwise about 'who'"):
        merge(check(tmp_path))


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path, {**tiny.SHARDED, "model.safetensors": tiny.GOOD})
    with pytest.raises(ModelError, match="has the name that this one would get"):
        merge(check(tmp_path))


def test_too_many_files() -> None:
    assert numbered("a", 1, 99_999, ".x") == "a-00001-of-99999.x"
    with pytest.raises(UsageError, match="too many files"):
        numbered("a", 1, 100_000, ".x")


def test_the_real_model(safetensors_model: Path, tmp_path: Path) -> None:
    split = write(shard(check(safetensors_model), 60_000_000), tmp_path / "split")
    theirs = load_torch(split)
    assert theirs.keys() == load_torch(safetensors_model).keys()
    assert tensors(split) == tensors(safetensors_model)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(split, dtype="auto").state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(safetensors_model, dtype="auto").state_dict().items():
        assert (loaded[name] == value).all()


def load_torch(folder: Path) -> dict[str, object]:
    import safetensors.torch

    return {k: v for path in folder.glob("*.safetensors") for k, v in safetensors.torch.load_file(path).items()}


ARRAYS = st.sampled_from(["f2", "f4", "f8", "i1", "u1", "i8", "?"]).flatmap(
    lambda kind: st.lists(st.integers(0, 5), max_size=3).map(lambda shape: numpy.ones(shape, kind))
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.dictionaries(NAMES.filter(lambda name: name != "__metadata__"), ARRAYS, min_size=1, max_size=12),
    limit=st.integers(1, 2000),
)
def test_any_model_any_limit(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, numpy.ndarray], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = model(folder / "a", made)
    split = write(shard(check(source), limit), folder / "b")
    back = write(merge(check(split)), folder / "c")
    assert load_file(back / "model.safetensors").keys() == made.keys()
    assert tensors(split) == tensors(source) == tensors(back)
    for path in split.glob("*.safetensors"):
        weights = check(split).read
        count = next(len(read.tensors) for file, read in weights.items() if file.name == path.name)
        assert path.stat().st_size <= limit or count == 1


def variant(folder: Path, index: str) -> Path:
    """A variant in two shards with an index of this name."""
    names = [f"model.fp16-0000{at}-of-00002.safetensors" for at in (1, 2)]
    for at, name in enumerate(names):
        (folder / name).write_bytes(tiny.safetensors_bytes({f"t{at}": tiny.tensor(0, 8)}, bytes(8)))
    places = {f"t{at}": name for at, name in enumerate(names)}
    (folder / index).write_text(json.dumps({"weight_map": places}))
    return folder


def test_a_variant_is_rewritten_with_its_index(tmp_path: Path) -> None:
    source = variant(tmp_path, "model.safetensors.index.fp16.json")
    assert [file.name for file in merge(check(source)).snapshot.files] == ["model.fp16.safetensors"]
    split = shard(check(source), 90)
    assert [file.name for file in split.snapshot.files] == [path.name for path in sorted(source.iterdir())]


def test_an_index_that_is_not_rewritten_is_not_left_dangling(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be rewritten"):
        merge(check(variant(tmp_path, "odd.index.json")))


def test_an_index_whose_metadata_no_file_can_hold(tmp_path: Path) -> None:
    source = tiny.write_folder(tmp_path, tiny.SHARDED)
    index = json.loads(tiny.SHARDED[INDEX])
    (source / INDEX).write_text(json.dumps({**index, "metadata": {"by": "\ud800"}}))
    with pytest.raises(ModelError, match="no index of shards"):
        shard(check(source), 100)


@pytest.mark.parametrize("odd", [b"[]", b"{}", b'{"weight_map":{"a":[]}}', b"not JSON", b"\xff"])
def test_an_index_of_something_else_is_in_nobodys_way(tmp_path: Path, odd: bytes) -> None:
    source = tiny.write_folder(tmp_path, {**tiny.SHARDED, "faiss.index.json": odd})
    assert [file.name for file in merge(check(source)).snapshot.files][1:] == ["faiss.index.json", "model.safetensors"]


def test_two_indexes_that_share_a_file(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.safetensors").write_bytes(tiny.safetensors_bytes({name: tiny.tensor(0, 8)}, bytes(8)))
    for stem, names in (("first", "ab"), ("second", "bc")):
        places = {name: f"{name}.safetensors" for name in names}
        (tmp_path / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match="another index names"):
        merge(check(tmp_path))


def test_two_indexes_of_one_set(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path, tiny.SHARDED)
    shutil.copy(tmp_path / INDEX, tmp_path / "model.safetensors.index.fp16.json")
    with pytest.raises(ModelError, match="another index names a file of this one too") as caught:
        merge(check(tmp_path))
    assert "of two indexes of one model" in str(caught.value.hint)


def test_metadata_that_makes_a_header_too_long(tmp_path: Path) -> None:
    for at in range(5):
        header = {"__metadata__": {str(at): "a" * (4_000_000)}, f"t{at}": tiny.tensor(0, 8)}
        (tmp_path / f"model-0000{at + 1}-of-00005.safetensors").write_bytes(tiny.safetensors_bytes(header, bytes(8)))
    with pytest.raises(ModelError, match="a longer header than one file may have") as caught:
        merge(check(tmp_path))
    assert "of them metadata, for 5 tensors" in str(caught.value.found)


def test_shards_without_an_index_and_another_file_are_not_one_model(tmp_path: Path) -> None:
    files = {name: data for name, data in tiny.SHARDED.items() if "index" not in name}
    tiny.write_folder(tmp_path, {**files, "model.safetensors": tiny.GOOD})
    with pytest.raises(ModelError, match="has the name that this one would get"):
        merge(check(tmp_path))


def test_more_tensors_than_one_file_may_have(tmp_path: Path) -> None:
    for at in (1, 2):
        entry = json.dumps(tiny.tensor(0, 0))
        header = "{" + ",".join(f'"{name}":{entry}' for name in range(at * 50_000, (at + 1) * 50_000)) + "}"
        (tmp_path / f"model-0000{at}-of-00002.safetensors").write_bytes(tiny.safetensors_bytes(header, b""))
    with pytest.raises(ModelError, match="more tensors than one file may have") as caught:
        merge(check(tmp_path))
    assert (caught.value.subject, "100000 tensors" in str(caught.value.found)) == ("model.safetensors", True)


def test_a_shard_of_many_small_tensors_keeps_the_limit(tmp_path: Path) -> None:
    made = {"a": numpy.zeros(60_000, numpy.uint8), **{f"t{at}": numpy.zeros(1, numpy.uint8) for at in range(2000)}}
    split = shard(check(model(tmp_path / "a", made)), 99_999)
    assert max(file.size for file in split.snapshot.files if file.suffix == ".safetensors") <= 99_999
    assert split.findings == ()
