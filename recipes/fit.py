"""Whether a recipe fits a checkpoint: asked before anything heavy is loaded."""

from __future__ import annotations

from typing import Any

from formats.checkpoint import Checkpoint
from formats.document import read_json
from formats.findings import RejectedError
from formats.index import INDEX, read_index
from formats.quantization import FLOATS
from formats.rules import model as rules
from formats.snapshot import ModelFile
from recipes.recipe import Engine, Recipe, shipped
from registry.errors import UsageError

CONFIG = "config.json"

_TRANSPOSED = frozenset(("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "gptsan-japanese"))
"""Values of model_type whose layers are no `Linear`: transformers' Conv1D has its weights the other way round."""

_GENERATES = ("ForCausalLM", "LMHeadModel")
CONDITIONAL = frozenset(
    f"{name}ForConditionalGeneration" for name in ("Gemma3", "Gemma3n", "Gemma4", "Gemma4Unified", "GotOcr2")
)
"""Architectures of another name that transformers' AutoModelForCausalLM loads as they are."""


def require_fit(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """`UsageError` if the recipe cannot be used on the checkpoint; it names those that can."""
    if reason := misfit(recipe, checkpoint):
        fitting = [other.name for other in shipped() if not misfit(other, checkpoint)]
        raise UsageError(
            f"the recipe {recipe.name} does not fit this model: {reason}",
            expected=f"one of {', '.join(fitting)}" if fitting else "a model that has not been quantized yet",
            found=recipe.name,
            hint="packer recipes tells what each is for" if fitting else "take the original, in 16 bits",
        )


def misfit(recipe: Recipe, checkpoint: Checkpoint) -> str:
    """Why the recipe cannot be used on the checkpoint; empty if it can, as far as its headers tell."""
    reasons = _LLMCOMPRESSOR if recipe.engine is Engine.LLMCOMPRESSOR else _OTHERS
    return next(filter(None, (reason(recipe, checkpoint) for reason in reasons)), "")


def _other_format(recipe: Recipe, checkpoint: Checkpoint) -> str:
    if weight_files(recipe, checkpoint):
        return ""
    if recipe.format == checkpoint.card.format:
        below = min(checkpoint.weights)
        return f"its weights lie in a folder below, where no recipe looks: {below}"
    return f"it is for {recipe.format}, and these weights are {checkpoint.card.format}"


def _adapter(_: Recipe, checkpoint: Checkpoint) -> str:
    return "this is an adapter; merge it into its base first" if checkpoint.card.adapts else ""


def _done_already(recipe: Recipe, checkpoint: Checkpoint) -> str:
    done = checkpoint.card.quantization
    if not done or recipe.settings.get("requantize"):
        return ""
    wish = ", and the recipe has no option requantize: true" if recipe.engine is Engine.LLAMA else ""
    return f"it is quantized already ({done}){wish}"


def _copies(recipe: Recipe, checkpoint: Checkpoint) -> str:
    """Why it is not clear which weights are meant: what is left beside them is the model once more, unquantized."""
    chosen = {file.name for file in weight_files(recipe, checkpoint)}
    beside = [name for name in sorted(checkpoint.weights) if name.endswith(".safetensors") and "/" not in name]
    others: list[str] = [name for name in beside if name not in chosen]
    if not indexes(checkpoint) and len(chosen) > 1:
        others = [*sorted(chosen)[1:]]
    if len(several := indexes(checkpoint)) > 1:
        others = [index.name for index in several[1:]]
    wish = "leave out the other copies, with --include or by removing them"
    return f"the weights are here more than once, such as in {others[0]}: {wish}" if others else ""


def _no_config(_: Recipe, checkpoint: Checkpoint) -> str:
    there = model_config(checkpoint)
    return "" if there else "there is no config.json, in which a server would read how it was quantized"


def _no_floats(_: Recipe, checkpoint: Checkpoint) -> str:
    is_there = any(tensor.dtype in FLOATS for tensor in checkpoint.tensors)
    return "" if is_there else "none of its weights are floating point numbers of 16 bits or more"


def _no_linear(_: Recipe, checkpoint: Checkpoint) -> str:
    kind = model_config(checkpoint).get("model_type")
    return f"the layers of {kind} are no Linear ones" if kind in _TRANSPOSED else ""


def _no_text(recipe: Recipe, checkpoint: Checkpoint) -> str:
    """Why a recipe that is calibrated on text cannot be."""
    why = generates(checkpoint) if recipe.calibration else ""
    return f"it is calibrated on text that a model goes on with, and {why}" if why else ""


def generates(checkpoint: Checkpoint) -> str:
    """Why a model cannot be given text to go on with; empty if it can."""
    name = checkpoint.card.architecture
    if model_config(checkpoint).get("is_encoder_decoder") is True:
        return f"{name} has an encoder"
    if not name.endswith(_GENERATES) and name not in CONDITIONAL:
        return f"{name or 'this model'} does not go on with text"
    is_there = any("tokenizer" in file.name for file in checkpoint.snapshot.files)
    return "" if is_there else "there is no tokenizer"


_OTHERS = (_other_format, _adapter, _done_already)
_LLMCOMPRESSOR = (*_OTHERS, _copies, _no_config, _no_floats, _no_linear, _no_text)


def weight_files(recipe: Recipe, checkpoint: Checkpoint) -> tuple[ModelFile, ...]:
    """The weight files that the recipe is about, by name."""
    return files_of(recipe.engine, checkpoint)


def files_of(engine: Engine, checkpoint: Checkpoint) -> tuple[ModelFile, ...]:
    """The weight files that an engine reads, by name.

    Of safetensors those beside config.json that an index names, or else all there: not another copy of the weights in a
    folder below, or in another layout.
    """
    files = [file for file in checkpoint.snapshot.files if file.name in checkpoint.weights]
    if engine is Engine.LLAMA:
        return tuple(file for file in files if file.suffix == ".gguf")
    if engine is Engine.ONNXRUNTIME:
        external = {tensor.file for tensor in checkpoint.tensors} - {file.name for file in checkpoint.read}
        return tuple(file for file in files if file.suffix == ".onnx" or file.name in external)
    beside = [file for file in files if file.suffix == ".safetensors" and not file.folder]
    indexed = {name for index in indexes(checkpoint) for name in read_index(index).weight_map.values()}
    return tuple(file for file in beside if not indexed or file.name in indexed)


def indexes(checkpoint: Checkpoint) -> list[ModelFile]:
    """The indexes of shards beside config.json."""
    return [file for file in checkpoint.snapshot.files if INDEX.fullmatch(file.name) and not file.folder]


def model_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is in config.json; empty if there is none."""
    file = checkpoint.snapshot.get(CONFIG)
    try:
        return read_json(file, rules.CONFIG_JSON) if file else {}
    except RejectedError:
        return {}
