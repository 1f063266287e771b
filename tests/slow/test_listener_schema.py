"""The listener's API is what its description says, whatever is sent: schemathesis for two minutes, `make test-slow`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packer.listener.config import Hook
from tests.parts.command import ROOT, run
from tests.parts.listening import listening, told
from tests.parts.outlook import fill

if TYPE_CHECKING:
    import pytest

SCHEMATHESIS = ROOT / ".cache/clients/schemathesis/bin/schemathesis"
SECONDS = 120
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "negative_data_rejection",
)


def test_no_request_gets_an_answer_that_is_not_described(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds = ("plain", "distribution", "harbor", "github", "huggingface", "zot")
    more = tuple(Hook(kind=kind, path=f"/hooks/open/{kind}", insecure=True, rate=1_000_000) for kind in kinds)
    with listening(tmp_path, told(tmp_path, more=more)) as found:
        fill(found.store, tmp_path)
        limits = ("--max-time", str(SECONDS), "--phases", "examples,coverage,fuzzing", "--seed", "1")
        words = ("run", f"{found.url}/openapi.json", "--checks", ",".join(CHECKS), "--continue-on-failure")
        said = run(SCHEMATHESIS, *words, "--no-color", *limits, check=False, timeout=SECONDS * 6, cwd=tmp_path)
        assert found.ask("/healthz").status == 200
    assert said.returncode == 0, said.stdout + said.stderr
    assert "Traceback" not in caplog.text
    assert found.said, "no delivery was ever read"
