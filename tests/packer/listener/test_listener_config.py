"""What is said of a `serve.yaml` that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from packer.listener.config import read_config
from registry.errors import UsageError


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
