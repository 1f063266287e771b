"""The model that answers the requests of tasks, as lm-eval knows it: loaded here, or behind an address."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import urllib3

from formats.text import printable
from recipes.engines.devices import announce, find_devices
from recipes.engines.loaded import NO_OTHER, loading
from recipes.task import Task, Tell
from registry.errors import UsageError

AT_ONCE, MOST = 4096, 32
"""Tokens that go through a model at once, about, and requests at most: each token brings numbers for all words."""

_CHARACTERS = 3
"""Of a token, at least."""

_TIMEOUT = 30.0
"""Seconds for an endpoint to say what it serves."""


def model_of(task: Task, now: Sequence[Any], known: Sequence[Any], tell: Tell) -> Any:
    """The model that will be asked some requests of lm-eval `now`, of all those that are `known`.

    How many it is asked at once depends on all, so that it computes the same whichever are asked now. `ModelError` if
    transformers cannot load it, `UsageError` if the endpoint is none.
    """
    endpoint = task.settings["endpoint"]
    return _remote(task, endpoint["url"], endpoint["model"]) if endpoint else _local(task, now, known, tell)


def _local(task: Task, now: Sequence[Any], known: Sequence[Any], tell: Tell) -> Any:
    from lm_eval.models.huggingface import HFLM

    devices = find_devices(task.device)
    tell(announce(devices, f"{len(now)} requests"))
    with loading("config.json", NO_OTHER):
        return HFLM(
            pretrained=str(task.source),
            device=devices[0].name,
            dtype="auto" if devices[0].is_gpu else "float32",
            batch_size=max(1, min(MOST, AT_ONCE * _CHARACTERS // max([1, *map(_length, known)]))),
            parallelize=len(devices) > 1,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        )


def _length(request: Any) -> int:
    """The characters of a request."""
    return sum(len(part) for part in request.args if isinstance(part, str))


def _remote(task: Task, url: str, name: str | None) -> Any:
    """The model of an OpenAI-compatible server, which gets tokens: those of the tokenizer in the model's folder."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    base = url.rstrip("/").removesuffix("/completions").removesuffix("/v1") + "/v1"
    served = _served(base, name)
    limit = {"max_length": served["max_model_len"]} if isinstance(served.get("max_model_len"), int) else {}
    with loading("tokenizer.json", NO_OTHER):
        return LocalCompletionsAPI(
            base_url=f"{base}/completions",
            model=served["id"],
            tokenizer=str(task.source),
            tokenizer_backend="huggingface",
            add_bos_token=True,  # what the tokenizer adds by itself, as where the model is loaded
            num_concurrent=1,
            **limit,
        )


def _served(base: str, name: str | None) -> dict[str, Any]:
    """What an endpoint says of the model of that name, or of its only one."""
    key = os.environ.get("OPENAI_API_KEY")  # as lm-eval does for the requests themselves
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = urllib3.request("GET", f"{base}/models", headers=headers, timeout=_TIMEOUT, retries=False)
        models: dict[str, dict[str, Any]] = {str(one["id"]): one for one in answer.json()["data"]}
    except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            "the endpoint does not say what it serves",
            subject=f"{base}/models",
            expected="an OpenAI-compatible server",
            found=printable(" ".join(str(error).split()))[:200],
            hint="is it running? with vLLM: vllm serve MODEL, and --endpoint http://HOST:8000",
        ) from error
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name not in models:
        found = name or f"{len(models)} models"
        raise UsageError("the endpoint serves another model", subject=base, expected=", ".join(models), found=found)
    return models[name]


@contextmanager
def asking(endpoint: Mapping[str, Any] | None) -> Iterator[None]:
    """Around what a model is asked: an endpoint that fails is told apart from a model that does."""
    import requests

    kinds = (requests.RequestException, AssertionError, ValueError, LookupError, TypeError)
    try:
        yield
    except kinds as error:
        if not endpoint:
            raise
        raise UsageError(
            "the endpoint does not answer as it should",
            subject=endpoint["url"],
            expected="/v1/completions that takes tokens, and with echo tells the probability of each",
            found=printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300],
            hint="look at what it logs; vLLM does, and what is done stays",
        ) from error
