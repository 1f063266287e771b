"""llmcompressor's modifiers, and the schemes that they mean, from the settings of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from formats.text import printable
from recipes.survey import LINEAR, Group
from registry.errors import UsageError

_MICRO = frozenset(("tensor_group",))
"""Strategies whose scales depend on the weights of several modules."""


def recipe_text(settings: Mapping[str, Any], ignore: Sequence[str] = ()) -> str:
    """The modifiers as a recipe of llmcompressor, in their order; those that quantize leave `ignore` too."""
    import yaml

    modifiers = {
        name: {**said, "ignore": [*said.get("ignore", ()), *ignore]} if _quantizes(said) else dict(said)
        for name, said in settings.items()
    }
    return yaml.safe_dump({"quant_stage": {"quant_modifiers": modifiers}}, sort_keys=False)


def _quantizes(said: Mapping[str, Any]) -> bool:
    return bool(said.keys() & {"scheme", "config_groups", "targets"})


def read_modifiers(settings: Mapping[str, Any]) -> list[Any]:
    """The modifiers, made by llmcompressor; `UsageError` if it does not understand them."""
    from llmcompressor.recipe import Recipe

    try:
        modifiers = list(Recipe.create_instance(recipe_text(settings)).modifiers)
    except Exception as error:
        raise _not_understood(error) from error
    if not any(hasattr(modifier, "resolve_quantization_config") for modifier in modifiers):
        raise UsageError("this recipe quantizes nothing", found=", ".join(settings), hint="add a QuantizationModifier")
    return modifiers


def read_config(modifiers: Sequence[Any]) -> Any:
    """The `QuantizationConfig` of the one modifier that quantizes; `UsageError` if there is none, or several."""
    quantizing = [modifier for modifier in modifiers if hasattr(modifier, "resolve_quantization_config")]
    if len(quantizing) > 1:
        names = ", ".join(type(modifier).__name__ for modifier in quantizing)
        raise UsageError("a recipe has one modifier that quantizes", found=names, hint="use config_groups")
    try:
        config = quantizing[0].resolve_quantization_config()
    except Exception as error:
        raise _not_understood(error) from error
    if not any(scheme.weights for scheme in config.config_groups.values()):
        raise UsageError("this recipe quantizes no weights", hint="give a scheme, such as FP8_DYNAMIC")
    # as compressed-tensors reads them: a group that names a module goes before one that means a class of them
    groups = sorted(config.config_groups.items(), key=lambda pair: LINEAR in pair[1].targets)
    config.config_groups = dict(groups)
    return config


def groups_of(config: Any) -> list[Group]:
    """The groups of a `QuantizationConfig`, with the widths that they ask for."""
    return [_group(scheme) for scheme in config.config_groups.values() if scheme.weights]


def is_file_by_file(modifiers: Sequence[Any], config: Any) -> bool:
    """Whether each weight is quantized by itself, so that the model need not be loaded."""
    if len(modifiers) > 1 or type(modifiers[0]).__name__ != "QuantizationModifier":
        return False
    schemes = config.config_groups.values()
    return not needs_data(modifiers, config) and all(_word(scheme.weights.strategy) not in _MICRO for scheme in schemes)


def needs_data(modifiers: Sequence[Any], config: Any) -> bool:
    """Whether activations must be seen: by a modifier, or to measure their scales."""
    static = (
        each and each.dynamic is not True
        for scheme in config.config_groups.values()
        for each in (scheme.input_activations, scheme.output_activations)
    )
    return any(modifier.requires_calibration_data for modifier in modifiers) or any(static)


def _group(scheme: Any) -> Group:
    weights, inputs = scheme.weights, scheme.input_activations
    rows, columns = weights.block_structure or (1, max(weights.group_size or 1, 1))
    widths = columns, max((inputs.group_size if inputs else None) or 1, 1)
    return Group(_named(weights, inputs), tuple(scheme.targets) or ("Linear",), max(widths), rows)


def _named(weights: Any, inputs: Any) -> str:
    """Such as `float8 per channel, activations float8 per token`."""
    text = f"{_type(weights)} {_per(weights)}"
    if not inputs:
        return text
    return f"{text}, activations {_type(inputs)} {_per(inputs)}" + ("" if inputs.dynamic else ", static")


def _type(args: Any) -> str:
    return f"{_word(args.type)}{args.num_bits}"


def _per(args: Any) -> str:
    if args.block_structure:
        return f"per block of {'x'.join(map(str, args.block_structure))}"
    strategy = _word(args.strategy)
    return f"per {strategy} of {args.group_size}" if args.group_size and args.group_size > 0 else f"per {strategy}"


def _word(value: Any) -> str:
    """An enumeration's word; compressed-tensors gives some as members and some as text."""
    return str(getattr(value, "value", value))


def _not_understood(error: Exception) -> UsageError:
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
    from pydantic import ValidationError

    first = error.errors()[0] if isinstance(error, ValidationError) else None
    place = ".".join(map(str, first["loc"])) if first else ""
    found = f"{place}: {first['input']!r}: {first['msg']}" if first else f"{type(error).__name__}: {error}"
    return UsageError(
        "llmcompressor does not understand this recipe",
        expected=f"a scheme among {', '.join(PRESET_SCHEMES)}" if "scheme" in place.split(".") else None,
        found=printable(" ".join(found.split()))[:300],
        hint="compare it with one of ours: packer recipes NAME",
    )
