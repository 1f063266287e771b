"""What is said of a `serve.yaml` that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from packer.listener.config import read_config
from registry.errors import UsageError
from tests.parts.command import packer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sources: [{kind: distributon, path: /hooks/a}]", "sources.0.kind: a kind is one of artifactory, "),
        ("sources: [{kind: distributon, path: /hooks/a}]", "zot; did you mean 'distribution'?"),
        ("sources: [{kind: plain, path: /plain}]", "sources.0.path: a path is /hooks/ and "),
        (
            "sources: [{kind: plain, path: /hooks/a}, {kind: zot, path: /hooks/a}]",
            "sources: two sources have the path ",
        ),
        ("sources: [{kind: plain, path: /hooks/a, secret: {header: X}}]", "sources.0.secret: a secret has from_env: "),
        ("sources: {kind: plain, path: /hooks/a}", "sources: this is a list"),
        ("builds: models/*/packer.yaml", "builds: this is a list, also of one: [...]"),
        ("grace: soon", "grace: this is no time: expected seconds, or such as 20m"),
    ],
)
def test_a_value_that_is_wrong_is_told_as_it_is_meant(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text if text.startswith("builds") else f"builds: []\n{text}\n")
    with pytest.raises(UsageError) as wrong:
        read_config(file)
    assert f"{file}: this is no configuration of the listener: " in str(wrong.value)
    assert said in str(wrong.value) and "Value error" not in str(wrong.value) and "tuple" not in str(wrong.value)


def test_a_key_that_is_not_known_is_told_with_those_of_its_place(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("builds: []\nsources: [{kind: plain, path: /hooks/a, secret: {from_evn: X}}]\n")
    with pytest.raises(UsageError) as wrong:
        read_config(file)
    assert str(wrong.value) == (
        f"{file}: the key 'sources.0.secret.from_evn' is not known\n"
        "  expected: from_env, from_file, header\n"
        "  next:     did you mean 'from_env'?"
    )


@pytest.mark.parametrize("command", [("serve", "--listen", "127.0.0.1:0"), ("events", "list")])
@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("", 5, "listener.db: the database cannot be read\n  found:    file is not a database"),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:9/x", 5, "database: the database does not answer"),
        ("mysql://me:s3cret@127.0.0.1/x", 2, "database: this is no URL of a database"),
    ],
)
def test_a_database_that_cannot_be_used_is_no_defect(
    tmp_path: Path, command: tuple[str, ...], url: str, code: int, said: str
) -> None:
    (tmp_path / "listener.db").write_text("something else")
    told = "{builds: [], state: ., database: {from_env: DB}}" if url else "{builds: [], state: .}"
    (tmp_path / "serve.yaml").write_text(told)
    done = packer(*command, "--config", tmp_path / "serve.yaml", env={"DB": url}, check=False)
    assert done.returncode == code and said in done.stderr and "s3cret" not in done.stderr
