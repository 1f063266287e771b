"""A language model run by llama.cpp, by way of llama-cpp-python: GGUF, whatever its types.

Its log probabilities follow from logits alone, since the states before them are not to be had: a trace takes four bytes
for each token of a passage and each one of the vocabulary. The library's functions are those of `llama.h`:
https://llama-cpp-python.readthedocs.io/en/latest/api-reference/.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.text import printable
from recipes.engines.devices import Device, find_devices, processors
from recipes.engines.samples import token_rows
from recipes.evaluation.engines.fidelity import PASSAGES, announced, unmeasured
from recipes.task import Task, Tell
from registry.disk import require_free
from registry.errors import ModelError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

_ALL_LAYERS = 0x7FFFFFFF
_AT_ONCE = 512
"""Tokens that go through at once: llama.cpp's own choice."""

_ERROR = 4
"""`enum ggml_log_level` of `ggml.h`."""

_SPACE = "free some, ask for fewer passages or a smaller window, or set PACKER_CACHE to a folder on a larger disk"


class Backend:
    """A model in one file, or in parts that the first one names; its passages are the task's samples."""

    def __init__(self, task: Task, tell: Tell) -> None:
        self._task, self._tell = task, tell
        self._library = library()
        self._path = task.source / min(task.files)
        self._model = self._library.load(self._path, vocab_only=True)
        trained = self._library.llama.llama_model_n_ctx_train(self._model)
        known = replace(task, max_length=min(task.max_length, trained or task.max_length))
        self._tokenizer = _Tokenizer(self._library.llama, self._model)
        self.rows: Sequence[Sequence[int]] = token_rows(known, self._tokenizer, tell, PASSAGES)
        self._context: Any = None

    def pieces(self, row: Sequence[int]) -> list[str]:
        """What each token stands for; part of a character is shown as the sign for that."""
        return [self._tokenizer.piece(token).decode(errors="replace") for token in row]

    def load(self) -> None:
        """Load it, on GPUs if this build of llama.cpp knows them; `SpaceError` if there is no room for the traces."""
        llama, longest = self._library.llama, max(map(len, self.rows))
        devices = self._devices()
        self._require_room()
        self._tell(announced(self._task, self.rows, devices))
        layers = _ALL_LAYERS if devices[0].is_gpu else 0
        llama.llama_model_free(self._model)
        self._model = self._library.load(self._path, n_gpu_layers=layers)
        self._tokenizer = _Tokenizer(llama, self._model)
        self._context = self._library.context(self._model, self._path, longest)

    def _devices(self) -> list[Device]:
        """Where it is computed; `UsageError` if a GPU is asked for of which this build of llama.cpp knows nothing."""
        wanted = self._task.device
        if wanted == "cpu" or self._library.llama.llama_supports_gpu_offload():
            return find_devices(wanted)
        if wanted != "auto":
            raise UsageError(
                "this build of llama-cpp-python computes on the CPU alone",
                expected=wanted,
                found="a build without GPUs",
                hint="--device cpu, or install one that was built for your GPU",
            )
        return find_devices("cpu")

    def _require_room(self) -> None:
        """A candidate leaves little, a trace of the baseline all its logits in float32."""
        if self._task.settings.get("against"):
            return
        tokens = sum(len(self.rows[at]) for at in unmeasured(self._task, len(self.rows)))
        require_free(self._task.target, 4 * self._tokenizer.size * tokens, _SPACE)

    def predict(self, row: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """One passage goes through by itself; of its states nothing is known."""
        import numpy as np
        import torch

        llama = self._library.llama
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        batch = llama.llama_batch_init(len(row), 0, 1)
        try:
            _fill(batch, row)
            code = llama.llama_decode(self._context, batch)
        finally:
            llama.llama_batch_free(batch)
        made = llama.llama_get_logits(self._context) if not code else None
        if not made:
            what = "llama.cpp cannot compute with this model"
            raise ModelError(what, subject=self._path.name, found=self._library.reason() or f"code {code}")
        return torch.from_numpy(np.ctypeslib.as_array(made, (len(row), self._tokenizer.size)).copy()), None

    def head(self) -> Mapping[str, Tensor] | None:
        """None: what comes after the last states is llama.cpp's own."""
        return None


def _fill(batch: Any, row: Sequence[int]) -> None:
    """The tokens one after the other, in one sequence, each of which has logits."""
    batch.n_tokens = len(row)
    for at, token in enumerate(row):
        batch.token[at], batch.pos[at], batch.logits[at] = token, at, True
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0


@cache
def library() -> Library:
    """The library, loaded once: as long as the process lives it may call what keeps its log."""
    return Library()


class Library:
    """`llama_cpp`, silent, and remembering what went wrong. `UsageError` if it does not load."""

    def __init__(self) -> None:
        try:
            self.llama: Any = import_module("llama_cpp")
        except (
            OSError,
            RuntimeError,
        ) as error:  # its library is for another machine; one that is missing is told above
            hint = "install it again, built for this machine: pip install --force-reinstall llama-cpp-python"
            raise UsageError("llama-cpp-python does not load", found=printable(str(error))[:300], hint=hint) from error
        self._said: deque[str] = deque(maxlen=8)
        self._hear = self.llama.llama_log_callback(self._keep)
        self.llama.llama_log_set(self._hear, ctypes.c_void_p(0))
        self.llama.llama_backend_init()

    def _keep(self, level: int, text: bytes, _: object) -> None:
        if level == _ERROR and (said := text.decode(errors="replace").strip()):
            self._said.append(said)

    def reason(self) -> str:
        """The first of the last things that it called an error: what follows are its consequences."""
        return printable(self._said[0])[:300] if self._said else ""

    def load(self, path: Path, **options: Any) -> Any:
        """The model in a file; `ModelError` if llama.cpp cannot load it."""
        params = self.llama.llama_model_default_params()
        for key, value in options.items():
            setattr(params, key, value)
        self._said.clear()
        if model := self.llama.llama_model_load_from_file(str(path).encode(), params):
            return model
        raise self._failure(path.name)

    def context(self, model: Any, path: Path, longest: int) -> Any:
        """What is needed to compute passages of at most so many tokens; `ModelError` if llama.cpp cannot.

        Without flash attention, as the package's own class has it, so that no build decides by itself.
        """
        params = self.llama.llama_context_default_params()
        params.n_ctx = params.n_batch = longest
        params.n_ubatch = min(longest, _AT_ONCE)
        params.flash_attn_type = self.llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = processors()
        self._said.clear()
        if context := self.llama.llama_init_from_model(model, params):
            return context
        raise self._failure(path.name)

    def _failure(self, name: str) -> Exception:
        """What is raised for what it could not do: memory ran out, or the model is not for it."""
        if "alloc" in (reason := self.reason()):
            return MemoryError(reason)
        hint = "a newer llama-cpp-python may know it"
        return ModelError("llama.cpp cannot load this model", subject=name, found=reason or None, hint=hint)


class _Tokenizer:
    """The model's own, with as much of the manner of transformers' as `token_rows` knows."""

    def __init__(self, llama: Any, model: Any) -> None:
        self._llama = llama
        self._vocabulary = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self._vocabulary)
        self.chat_template = (llama.llama_model_chat_template(model, None) or b"").decode(errors="replace")

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        """Tokens, with those that the model wants around them; in what a chat template made, their names count too."""
        data = text.encode()
        room = len(data) + 8
        while True:
            tokens = (self._llama.llama_token * room)()
            given = (tokens, room, add_special_tokens, not add_special_tokens)
            count = self._llama.llama_tokenize(self._vocabulary, data, len(data), *given)
            if count >= 0:
                return {"input_ids": tokens[:count]}
            room = -count

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], *, tokenize: bool) -> str:
        """The messages as the model's template puts them; `TemplateError` if it refuses them."""
        from jinja2 import TemplateError

        assert not tokenize
        try:
            return str(self._formatter(messages=list(messages)).prompt)
        except ValueError as error:  # as the package tells what a template raises
            raise TemplateError(str(error)) from error

    @cached_property
    def _formatter(self) -> Any:
        form = import_module("llama_cpp.llama_chat_format").Jinja2ChatFormatter
        ends = (self._llama.llama_vocab_eos(self._vocabulary), self._llama.llama_vocab_bos(self._vocabulary))
        end, begin = (self.piece(token).decode(errors="replace") if token >= 0 else "" for token in ends)
        return form(self.chat_template, end, begin, add_generation_prompt=False)

    def piece(self, token: int) -> bytes:
        """What a token stands for."""
        for room in (64, 1 << 16):
            buffer = ctypes.create_string_buffer(room)
            count = self._llama.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, True)
            if count >= 0:
                return buffer.raw[:count]
        return b""
