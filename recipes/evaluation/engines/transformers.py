"""A language model run by transformers: safetensors, quantized by compressed-tensors or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipes.engines.devices import find_devices, has_short_floats
from recipes.engines.loaded import NO_OTHER, loading, tokenizer_of
from recipes.engines.samples import token_rows
from recipes.evaluation.engines.fidelity import PASSAGES, announced
from recipes.task import Task, Tell

if TYPE_CHECKING:
    from torch import Tensor


class Backend:
    """A model in a folder; its passages are the task's samples."""

    def __init__(self, task: Task, tell: Tell) -> None:
        self._task, self._tell = task, tell
        self._tokenizer = tokenizer_of(task.source)
        self.rows = token_rows(task, self._tokenizer, tell, PASSAGES)
        self._model: Any = None
        self._seen: list[Tensor] = []

    def pieces(self, row: Sequence[int]) -> list[str]:
        """What each token stands for; part of a character is shown as the sign for that."""
        return [self._tokenizer.decode([token]) for token in row]

    def load(self) -> None:
        """Load it: on GPUs as it is, on a CPU that computes nothing faster in 16 bits in float32."""
        from transformers import AutoModelForCausalLM

        devices = find_devices(self._task.device)
        self._tell(announced(self._task, self.rows, devices))
        where: dict[str, Any] = {"device_map": "auto"} if devices[0].is_gpu else {}
        with loading("config.json", NO_OTHER):
            self._model = AutoModelForCausalLM.from_pretrained(
                self._task.source,
                dtype="auto" if devices[0].is_gpu or has_short_floats() else "float32",
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                **where,
            ).eval()
        if (last := self._model.get_output_embeddings()) is not None:
            last.register_forward_pre_hook(self._see)

    def _see(self, _: object, given: tuple[Tensor, ...]) -> None:
        self._seen = [given[0]]

    def predict(self, row: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """One passage goes through at once: passages of one length have one way through the kernels."""
        import torch

        self._seen = []
        logits = self._model(torch.tensor([row], device=self._model.device), use_cache=False).logits[0]
        return logits, self._seen[0][0] if self._seen else None

    def head(self) -> Mapping[str, Tensor] | None:
        """The output embeddings, if they are a plain linear layer."""
        import torch

        last = self._model.get_output_embeddings()
        if not isinstance(last, torch.nn.Linear):
            return None
        return {"weight": last.weight} | ({"bias": last.bias} if last.bias is not None else {})
