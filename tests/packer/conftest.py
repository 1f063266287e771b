"""What the tests of commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.hub import StrictHub, strict_hub


@pytest.fixture
def environment(hub: StrictHub, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables that lead to the strict hub of the test's module, with a login and a cache of its own."""
    with strict_hub(hub) as url:
        yield {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret"}
