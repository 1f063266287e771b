"""Layers: tar as others read it, and hostile tar that must do no harm."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import tar
from containers.layers import FILEPATH
from containers.tar import Member, TarLayer, folder, read_tar, walk_tar
from registry.blob import BytesBlob, TypedBlob
from registry.descriptor import IMAGE_CONFIG, IMAGE_LAYER, MANIFEST
from registry.errors import ContentError
from registry.layout import Layout
from registry.manifest import encode, make_manifest
from tests.parts.command import packer

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=180)


def member(name: str, data: bytes) -> Member:
    return Member(name, len(data), lambda: io.BytesIO(data))


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=5))
def test_what_is_written_is_what_tarfile_and_our_reader_read(files: dict[str, bytes]) -> None:
    layer = TarLayer((folder("models"), *(member(f"models/{name}", data) for name, data in sorted(files.items()))))
    raw = layer.open().read()
    assert (len(raw), layer.descriptor.size) == (layer.size, layer.size)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        theirs = {info.name: archive.extractfile(info).read() for info in archive if info.isfile()}  # type: ignore[union-attr]
        assert all((info.uid, info.gid, info.mtime, info.uname) == (0, 0, 0, "") for info in archive)
    ours = {entry.name: b"".join(entry.content) for entry in read_tar(io.BytesIO(raw), "test")}
    assert theirs == ours == {f"models/{name}": data for name, data in files.items()}


def test_size_beyond_what_ustar_can_hold() -> None:
    big = Member("models/big", 9 << 30, lambda: io.BytesIO())
    info = tarfile.TarInfo.frombuf(big.header()[:512], "utf-8", "strict")
    assert info.size == 9 << 30


def hostile(tmp_path: Path, layer: bytes, media_type: str = IMAGE_LAYER, path: str = "models") -> Path:
    """A layout with an image whose one layer is `layer`."""
    store = Layout(tmp_path / "hostile")
    blob = TypedBlob.of(BytesBlob.of(media_type, layer), media_type, {FILEPATH: path} if path else {})
    config = BytesBlob.of(IMAGE_CONFIG, encode({"os": "linux", "architecture": "amd64"}))
    manifest = make_manifest(config.descriptor, [blob.descriptor], {})
    for each in (blob, config):
        store.push(each)
    store.put(manifest)
    store.tag(manifest, "v1")
    return tmp_path / "hostile"


def archive(add: Callable[[tarfile.TarFile], None], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        add(tar)
    return buffer.getvalue()


def entry(name: str, data: bytes = b"evil", kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data) if kind == tarfile.REGTYPE else 0
    return info


def one(name: str) -> bytes:
    return archive(lambda tar: tar.addfile(entry(name), io.BytesIO(b"evil")))


def through_link(target: str) -> bytes:
    def add(tar: tarfile.TarFile) -> None:
        tar.addfile(entry("models/link", kind=tarfile.SYMTYPE, target=target))
        tar.addfile(entry("models/link/evil"), io.BytesIO(b"evil"))

    return archive(add)


def file_and_folder() -> bytes:
    def add(tar: tarfile.TarFile) -> None:
        for name in ("models/ok", "models/a", "models/a/b"):
            tar.addfile(entry(name), io.BytesIO(b"evil"))

    return archive(add)


HOSTILE = {
    "file-and-folder": (file_and_folder(), IMAGE_LAYER, "models"),
    "up": (one("models/../../evil"), IMAGE_LAYER, "models"),
    "absolute": (one("/tmp/evil-absolute"), IMAGE_LAYER, "models"),
    "dot": (one("models/./evil"), IMAGE_LAYER, "models"),
    "backslash": (one("models\\..\\evil"), IMAGE_LAYER, "models"),
    "newline": (one("models/a\nb"), IMAGE_LAYER, "models"),
    "raw-up": (b"evil", "application/vnd.cncf.model.weight.v1.raw", "../evil"),
    "raw-absolute": (b"evil", "application/vnd.cncf.model.weight.v1.raw", "/tmp/evil-absolute"),
    "raw-unnamed": (b"evil", "application/vnd.cncf.model.weight.v1.raw", ""),
    "no-tar": (b"x" * 2048, IMAGE_LAYER, "models"),
    "cut": (one("models/a")[:514], IMAGE_LAYER, "models"),
    "only-links": (
        archive(lambda tar: tar.addfile(entry("models/l", kind=tarfile.SYMTYPE, target="/"))),
        IMAGE_LAYER,
        "models",
    ),
    "pax-up": (
        archive(
            lambda tar: tar.addfile(entry(f"models/{'n' * 200}/../../evil"), io.BytesIO(b"evil")), tarfile.PAX_FORMAT
        ),
        IMAGE_LAYER,
        "models",
    ),
    "pax-cut": (
        archive(lambda tar: tar.addfile(entry("models/" + "n" * 200), io.BytesIO(b"evil")), tarfile.PAX_FORMAT)[:800],
        IMAGE_LAYER,
        "models",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_write_nothing(tmp_path: Path, name: str) -> None:
    layout = hostile(tmp_path, *HOSTILE[name])
    (tmp_path / "target").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = packer("pull", f"oci:{layout}:v1", tmp_path / "target", check=False)
    assert (done.returncode in (3, 5), "Traceback" in done.stderr) == (True, False), done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil-absolute").exists()


def test_files_behind_a_link_stay_inside(tmp_path: Path) -> None:
    """The link is passed over, so the file below it is an ordinary one."""
    outside = tmp_path / "outside"
    outside.mkdir()
    packer("pull", f"oci:{hostile(tmp_path, through_link(str(outside)))}:v1", tmp_path / "target")
    assert (list(outside.iterdir()), (tmp_path / "target/link/evil").read_bytes()) == ([], b"evil")
    assert not (tmp_path / "target/link").is_symlink()


def test_a_link_in_the_target_is_not_followed_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/sub").symlink_to(tmp_path / "outside")
    layout = hostile(tmp_path, one("models/sub/deep/evil"))
    done = packer("pull", f"oci:{layout}:v1", tmp_path / "target", check=False)
    assert (done.returncode, list((tmp_path / "outside").iterdir())) == (5, [])


def test_changed_bytes_are_noticed_and_nothing_is_kept(tmp_path: Path) -> None:
    layout = hostile(tmp_path, one("models/fine"))
    manifest = next(path for path in (layout / "blobs/sha256").iterdir() if MANIFEST.encode() in path.read_bytes())
    layer = layout / "blobs/sha256" / json.loads(manifest.read_text())["layers"][0]["digest"].removeprefix("sha256:")
    layer.chmod(0o644)
    layer.write_bytes(layer.read_bytes().replace(b"evil", b"good"))
    done = packer("pull", f"oci:{layout}:v1", tmp_path / "target", check=False)
    assert (done.returncode, list((tmp_path / "target").iterdir())) == (5, [])
    assert "not what its descriptor promises" in done.stderr


def test_include_takes_only_matching_files(tmp_path: Path, gguf_model: Path) -> None:
    packer("build", gguf_model, "--to", f"oci:{tmp_path}/out")
    for blob in (tmp_path / "out/blobs/sha256").iterdir():
        if blob.stat().st_size > 50_000_000:
            blob.unlink()  # a layer that holds no match must not even be asked for
    packer("pull", f"oci:{tmp_path}/out", tmp_path / "pulled", "--include", "LIC*")
    assert [path.name for path in (tmp_path / "pulled").iterdir()] == ["LICENSE"]
    done = packer("pull", f"oci:{tmp_path}/out", tmp_path / "none", "--include", "*.nope", check=False)
    assert (done.returncode, "no file matches" in done.stderr) == (3, True)


def test_a_long_name_that_is_cut_inside_a_letter() -> None:
    name = "\x80" * 26 + "\u0800" * 14 + ".bin"
    layer = TarLayer((member(name, b"x"),))
    with layer.open() as stream:
        assert [(entry.name, b"".join(entry.content)) for entry in read_tar(stream, "test")] == [(name, b"x")]
    with layer.open() as stream:
        whole = io.BytesIO(stream.read())
    assert [(found, size) for found, _, size in walk_tar(whole, "test")] == [(name, 1)]


def test_walking_finds_what_reading_finds() -> None:
    members = tuple(member(f"{at}" * (at + 1), bytes([at]) * at) for at in range(0, 180, 7))
    with TarLayer(members).open() as stream:
        whole = stream.read()
    read = [(entry.name, b"".join(entry.content)) for entry in read_tar(io.BytesIO(whole), "test")]
    walked = [(name, whole[start : start + size]) for name, start, size in walk_tar(io.BytesIO(whole), "test")]
    assert walked == read and len(walked) == len(members)


def test_a_tar_of_too_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_MEMBERS", 3)
    with TarLayer(tuple(Member(f"{at}", 0, io.BytesIO) for at in range(5))).open() as stream:
        whole = io.BytesIO(stream.read())
    with pytest.raises(ContentError, match="too many members"):
        list(walk_tar(whole, "test"))
