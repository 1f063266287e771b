"""What is answered to a request that is not served: a status, one line of text, and a word for the metrics."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

TEXTS = {
    400: "What was sent is not what this address takes.",
    401: "This needs a login, a secret or a signature.",
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
    408: "What was sent came too slowly.",
    413: "What was sent is too large.",
    422: "A parameter is not what it should be.",
    429: "Too many requests; `Retry-After` says for how many seconds to wait.",
    503: "This cannot be answered now; `Retry-After` says for how many seconds to wait.",
}
"""What each status means, for those who read the API's description."""


class Problem(BaseModel):
    """Why a request is not served."""

    error: str


class RefusedError(Exception):
    """A request that is not served. `text` is one line, without anything secret; `reason` is a word for the metrics.

    `retry_after` is in seconds; `is_last` says that nothing more is read from this sender.
    """

    def __init__(
        self, status: int, reason: str, text: str = "", *, retry_after: int | None = None, is_last: bool = False
    ) -> None:
        super().__init__(text)
        self.status, self.reason = status, reason
        self.text = text or TEXTS[status]
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if is_last:
            self.headers["Connection"] = "close"


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses for the API's description."""
    return {status: {"model": Problem, "description": TEXTS[status]} for status in statuses}
