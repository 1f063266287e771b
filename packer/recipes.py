"""What is printed of recipes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap

from recipes.recipe import Engine, Recipe

_WIDTH = 100
_SAME = "the same bytes for the same input, versions and kind of device"
_ALIKE = "nearly: sums depend on the number of threads and the kind of device"
_TEXT = "samples of text: --calibration, or packer's own small set"
_NEEDS = {
    Engine.LLMCOMPRESSOR: _TEXT,
    Engine.ONNXRUNTIME: f"{_TEXT}; for models of other inputs, rows with these",
    Engine.LLAMA: _TEXT,
}


def catalogue(recipes: Iterable[Recipe]) -> str:
    """A few lines for each recipe, by the format that it is for."""
    every = list(recipes)
    formats = dict.fromkeys(recipe.format for recipe in every)
    return "\n\n".join(
        "\n".join([f"for {name}:", *(line for recipe in every if recipe.format == name for line in _short(recipe))])
        for name in formats
    )


def _short(recipe: Recipe) -> Iterator[str]:
    texts = [recipe.description]
    if recipe.calibration:
        texts.append(f"needs {_NEEDS[recipe.engine]}")
    if recipe.hardware:
        texts.append(f"fast on {'; '.join(recipe.hardware)}")
    lines = [line for text in texts for line in wrap(text, _WIDTH - 20, subsequent_indent="  ")]
    yield f"  {recipe.name:<18}{lines[0]}"
    yield from (f"{'':<20}{line}" for line in lines[1:])


def whole(recipe: Recipe) -> str:
    """Everything about a recipe."""
    import yaml

    lines = [
        f"{recipe.name}: {recipe.description}",
        "",
        f"for        {recipe.format}, by {recipe.engine.value}",
        f"needs      {_NEEDS[recipe.engine] if recipe.calibration else 'nothing but the model'}",
        f"repeats    {_SAME if not recipe.calibration else _ALIKE}",
        *(f"{'' if at else 'runs fast':<11}{line}" for at, line in enumerate(recipe.hardware)),
        "",
        yaml.safe_dump(dict(recipe.settings), sort_keys=False).rstrip(),
    ]
    return "\n".join(lines)
