"""`packer rebuild`, and the lock beside a build file: nothing is built unless something that matters has changed."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from packer.lock import read_lock, write_locked
from registry.errors import UsageError
from tests.parts.command import events, packer, release
from tests.parts.place import Place
from tests.parts.servers import Server


@pytest.fixture
def place(tmp_path: Path, registry: Server) -> Place:
    return Place(tmp_path, registry.address)


def test_nothing_changed_and_nothing_runs(place: Place) -> None:
    assert place.changed()["source"][0] is None
    code, told = place.rebuild()
    assert (code, told[-1]["event"], told[-1]["changed"]) == (0, "release", True)
    lock = place.file.with_suffix(".lock").read_bytes()
    assert place.changed() == {}
    (checked,) = place.rebuild()[1]
    assert checked["event"] == "check"
    assert checked["inputs"] == json.loads(lock)["builds"][""]["inputs"]
    assert place.file.with_suffix(".lock").read_bytes() == lock
    assert str(place.folder) not in lock.decode()


def test_another_source_is_built_and_the_same_again_is_not(place: Place) -> None:
    first = place.rebuild()[1][-1]
    (place.model / "README.md").write_text("# Another\n")
    place.push_source()
    assert list(place.changed()) == ["source"]
    second = place.rebuild()[1][-1]
    assert second["event"] == "release"
    assert second["image"] != first["image"]
    place.push_source()
    assert place.changed() == {}


def test_a_new_base_alone_reads_and_sends_no_weights(place: Place) -> None:
    first = place.rebuild()[1][-1]
    layers = read_lock(place.file.with_suffix(".lock")).builds[""].outputs.layers
    place.push_base()
    assert list(place.changed()) == ["base"]
    told = place.rebuild()[1]
    assert told[-1]["image"] != first["image"]
    assert read_lock(place.file.with_suffix(".lock")).builds[""].outputs.layers == layers
    sent = next(one for one in told if one["event"] == "finished" and one["stage"] == "publish")
    assert sent["blobs_sent"] <= 2  # the config, and what is new in the base
    assert sent["blobs_present"] >= len(layers)


def test_what_the_file_says_is_an_input_and_where_it_lies_is_none(place: Place) -> None:
    place.rebuild()
    place.write({"shard": {"max_size": "1MB"}})
    assert list(place.changed()) == ["file"]
    place.write({})
    moved = shutil.move(place.file.parent, place.folder / "elsewhere")
    place.file = Path(moved) / "packer.yaml"
    assert place.changed() == {}


def test_a_tag_that_names_something_else_is_built_again(place: Place) -> None:
    made = place.rebuild()[1][-1]
    packer("copy", f"{place.host}/source:main", f"{place.host}/made:v1")
    assert list(place.changed()) == ["tag v1"]
    packer("copy", f"{place.host}/source:main", f"{place.host}/made:v1-modelpack")
    assert list(place.changed()) == ["tag v1", "tag v1-modelpack"]
    assert place.rebuild()[1][-1]["image"] == made["image"]
    assert place.changed() == {}


def test_a_release_is_reproduced(place: Place) -> None:
    place.rebuild()
    (place.model / "README.md").write_text("# Another\n")
    place.push_source()
    place.push_base()
    code, told = place.rebuild("--reproduce")
    assert (code, told[-1]["same"], told[-1]["changed"]) == (0, True, [])
    assert set(place.changed()) == {"base", "source"}


def test_what_does_not_come_out_the_same_is_told_with_the_reason(place: Place) -> None:
    place.write({"source": str(place.model)})
    place.rebuild()
    (place.model / "README.md").write_text("# Another\n")
    code, told = place.rebuild("--reproduce")
    assert (code, told[-1]["same"], told[-1]["layer"]["before"]["path"]) == (7, False, "models")
    assert [one["kind"] for one in told[-1]["changed"]] == ["source"]
    said = packer("rebuild", place.file, "--reproduce", check=False).stdout
    assert "differs   models" in said
    assert "because   source" in said


def test_a_base_that_is_another_is_not_the_same(place: Place) -> None:
    """The model's layers are, and the image is not."""
    place.rebuild()
    publish = {"to": f"{place.host}/made:v1", "base": "none", "platforms": ["linux/amd64"]}
    place.write({"publish": publish})
    done = packer("rebuild", place.file, "--reproduce", check=False)
    assert (done.returncode, "names another base" in done.stderr) == (2, True)
    place.write({"publish": {**publish, "base": f"{place.host}/base:v1"}, "include": ["*"]})
    code, told = place.rebuild("--reproduce")
    assert (code, told[-1]["same"], [one["kind"] for one in told[-1]["changed"]]) == (0, True, ["file"])
    place.write({"publish": {**publish, "base": f"{place.host}/base:v1", "modelpack": "none"}})
    code, told = place.rebuild("--reproduce")
    assert (code, told[-1]["same"], told[-1]["manifests"]) == (7, False, ["modelpack"])
    said = packer("rebuild", place.file, "--reproduce", check=False).stdout
    assert "differs   modelpack; the model's layers are the same" in said


def test_a_layout_is_named_as_the_file_does_and_a_report_is_no_input(place: Place) -> None:
    publish = {"to": "oci:./out:v1", "base": "none"}
    place.write({"publish": publish})
    packer("build", place.file)
    lock = place.file.with_suffix(".lock").read_text()
    assert read_lock(place.file.with_suffix(".lock")).builds[""].outputs.image.startswith("oci:out@sha256:")
    assert str(place.folder) not in lock
    place.write({"publish": publish, "evaluate": {"report": "report"}})
    assert "file" not in inputs_of(place)


def inputs_of(place: Place) -> dict[str, Any]:
    """What is told of inputs alone: there is no suite, so that a build itself is refused."""
    from packer.buildfile import read_builds
    from packer.inputs import _file_digest

    (build,) = read_builds(place.file).values()
    locked = read_lock(place.file.with_suffix(".lock")).builds[""].inputs["file"].value
    return {} if _file_digest(build, place.file.parent) == locked else {"file": locked}


def test_those_who_build_side_by_side_keep_each_others_releases(place: Place) -> None:
    place.write({"variants": [{"name": name} for name in "abcd"]})
    (locked,) = [read_lock(place.file.with_suffix(".lock"))]
    assert locked.builds == {}
    packer("build", place.file, "--variant", "a")
    one = read_lock(place.file.with_suffix(".lock")).builds["a"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write_locked(place.file, name, one, "abcd"), "abcd" * 10))
    assert set(read_lock(place.file.with_suffix(".lock")).builds) == set("abcd")
    write_locked(place.file, "a", one, "ab")
    assert set(read_lock(place.file.with_suffix(".lock")).builds) == set("ab")


def test_a_build_of_the_file_writes_the_lock_and_others_do_not(place: Place, tmp_path: Path) -> None:
    release(f"oci://{place.host}/source:main", "--to", f"oci:{tmp_path}/out", "--base", "none")
    assert not list(tmp_path.glob("**/*.lock"))
    told = events("build", place.file)
    locked = read_lock(place.file.with_suffix(".lock")).builds[""]
    assert locked.outputs.image == told[-1]["image"]
    assert locked.inputs["source"].revision == locked.inputs["source"].value
    assert [layer.path for layer in locked.outputs.layers][-1] == "models"
    assert place.changed() == {}
    events("build", place.file, "--until", "validate")
    assert read_lock(place.file.with_suffix(".lock")).builds[""] == locked


def test_a_model_has_no_lock_in_it(place: Place) -> None:
    shutil.copy(place.file, place.model / "packer.yaml")
    place.file = place.model / "packer.yaml"
    place.write({"source": "."})
    done = packer("build", place.file, check=False)
    assert (done.returncode, "a folder of its own" in done.stderr) == (2, True)
    place.write({"source": ".", "include": ["*.safetensors", "*.json"]})
    assert packer("build", place.file).returncode == 0
    assert place.changed() == {}


def test_variants_are_locked_and_looked_at_apart(place: Place) -> None:
    place.write({"variants": [{"name": "a"}, {"name": "b", "publish": {"modelpack": "none"}}]})
    assert place.rebuild("--variant", "a")[1][-1]["variant"] == "a"
    code, told = place.rebuild("--check")
    assert (code, [bool(one["changed"]) for one in told]) == (7, [False, True])
    assert place.rebuild("--check", "--variant", "a")[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "this is no lock"),
        ('{"version": 2}', "of another version"),
        ('{"version": 1, "builds": {"": {}}}', "this is no lock"),
        ('{"version": 1, "more": 1}', "this is no lock"),
        ("[" * 100_000, "this is no lock"),
    ],
)
def test_locks_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "packer.lock").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_lock(tmp_path / "packer.lock")


def test_a_lock_that_cannot_be_written_is_told_and_no_failure(place: Place) -> None:
    place.file.with_suffix(".lock").mkdir()
    done = packer("build", place.file, check=False)
    assert done.returncode == 0
    assert "packer.lock" in done.stderr
