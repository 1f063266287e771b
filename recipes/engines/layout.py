"""What transformers saved of a quantized model, laid out in files like those of the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.task import Module, Task, whole_file
from registry.errors import ModelError

_SCALE = ".weight_scale"
Files = dict[str, tuple[str, ...]]
Places = Mapping[str, Path]
"""The file in which each tensor is, by name."""


def read_places(paths: Iterable[Path]) -> dict[str, Path]:
    """Where the tensors are that some files hold."""
    return {name: path for path in paths for name in _names(path)}


def require_names(source: Sequence[str], saved: Iterable[str]) -> None:
    """`ModelError` if modules are saved under names that the source does not have, while some of its own are gone.

    llmcompressor makes experts that lie in one tensor linear layers of its own naming, for which neither transformers
    nor vLLM's code for such a model looks: it would be loaded with random weights there, and told nothing.
    """
    before, after = {_module(name) for name in source}, {_module(name) for name in saved}
    gone = [name for name in source if _module(name) not in after]
    if gone and (new := sorted(after - before)):
        raise ModelError(
            "llmcompressor gives weights of this model names under which nothing looks for them",
            expected=f"{gone[0]}, and {len(gone) - 1} more",
            found=f"{new[0]}, and {len(new) - 1} more",
            hint="take a recipe that needs no data (packer recipes): it keeps all names, if each expert has tensors of "
            "its own",
        )


def not_loaded(source: Places, saved: Iterable[str], tied: Sequence[str]) -> list[str]:
    """The modules of the source that transformers does not load: draft layers, towers for images. They stay."""
    there = {_module(name) for name in saved}
    return sorted({_module(name) for name in source} - there - set(tied))


def became(modules: Sequence[Module], saved: Iterable[str]) -> Iterator[Module]:
    """The modules by what was saved of them; such as were one tensor in the source and are many now come last."""
    scaled = {name.removesuffix(_SCALE) for name in saved if name.endswith(_SCALE)}
    scheme = next(module.scheme for module in modules if module.is_quantized)
    for module in modules:
        if module.name in scaled:
            yield Module(module.name, module.scheme or scheme)
        else:
            yield Module(module.name, why=module.why or "transformers does not load it, or llmcompressor left it")
    for name in sorted(scaled - {module.name for module in modules}):
        yield Module(name, scheme)


def lay_out(saved: Places, source: Places, kept: Iterable[str], task: Task) -> Files:
    """The tensors in files like those of the source; a file in which nothing changed is not made.

    A tensor that only went through another type and back is the source's own, and so are those of the modules `kept`.
    """
    modules = frozenset(kept)
    own = {name for name in source if _module(name) in modules or (name in saved and _is_same(name, source, saved))}
    places = _places(source)
    wanted: dict[str, dict[str, Path]] = {name: {} for name in task.files}
    for tensor in sorted({*saved, *own}):
        wanted[_place(tensor, places, task.files[-1])][tensor] = (source if tensor in own else saved)[tensor]
    files: Files = {}
    for name, tensors in wanted.items():
        if set(_names(task.source / name)) != tensors.keys() or not own.issuperset(tensors):
            _write(task.source / name, task.target / name, tensors)
            files[name] = (name,)
    return files


def _places(source: Places) -> dict[str, str]:
    """The file of each tensor of the source, and of each module."""
    places = {name: path.name for name, path in source.items()}
    for name, path in source.items():
        places.setdefault(_module(name), path.name)
    return places


def _place(tensor: str, places: Mapping[str, str], last: str) -> str:
    """The file for a tensor: where it was, where its module was, or where the nearest module above it was."""
    name = tensor
    while name:
        if name in places:
            return places[name]
        name = name.rpartition(".")[0]
    return last


def _is_same(name: str, source: Places, saved: Places) -> bool:
    """Whether a saved tensor is the source's, but for the type that the model was loaded in."""
    import torch

    before, after = tensor_in(source[name], name), tensor_in(saved[name], name)
    return before.shape == after.shape and bool(torch.equal(before.to(after.dtype), after))


def _write(source: Path, target: Path, tensors: Places) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    with whole_file(target) as path:
        save_file({name: tensor_in(place, name) for name, place in tensors.items()}, path, metadata=metadata)


def _names(path: Path) -> Iterator[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        yield from file.keys()


def tensor_in(path: Path, name: str) -> Any:
    """A tensor whose bytes stay in the file until they are used."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]
