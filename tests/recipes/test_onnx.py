"""ONNX models quantized by onnxruntime: what comes out runs, and says nearly what the original says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from formats.examine import examine
from packer.sources import parse_source
from recipes.engines import onnx_files
from recipes.engines.onnx import run
from recipes.recipe import find_recipe
from recipes.task import Done, Module, Step, Task
from registry.errors import ModelError, UsageError
from tests.parts.command import run as command
from tests.parts.models import CACHE, digests

REAL = CACHE / "real"
RECIPES = ("onnx-int8-dynamic", "onnx-int8-static")

SENTENCES = (
    "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.",
    "A man is riding a horse.", "A woman is playing violin.", "Two men pushed carts through the woods.",
    "A cheetah is running behind its prey.", "Quantum physics is hard to learn.",
    "Interest rates rose again this year.", "The new movie is awesome.", "The cat sits outside.",
    "Someone in a gorilla costume is playing a set of drums.", "How do I reset my password?",
    "The invoice is due on the first of March.", "Photosynthesis turns light into chemical energy.",
    "He scored twice in the second half.", "The train to Vienna leaves from platform nine.",
    "Add the flour and stir until the dough is smooth.", "The court dismissed the appeal.",
    "It will rain in the north tomorrow, with strong winds along the coast.",
)  # fmt: skip

CALIBRATION = tuple(
    f"The {which} {what} {where}."
    for which in ("red", "old", "fast", "quiet")
    for what in ("dog sleeps", "train stops", "bank lends money", "river floods")
    for where in ("in the city", "near the northern border of the country")
)

EXPORT = """
import json, sys, warnings
import numpy, torch
from transformers import AutoModel, AutoTokenizer
warnings.simplefilter("ignore")
source, target = sys.argv[1:]
sentences = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(source)
names = ["input_ids", "attention_mask", "token_type_ids"]
class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    def forward(self, *inputs):
        return self.model(**dict(zip(names, inputs))).last_hidden_state
encoder = Encoder()
def pooled(sentence):
    inputs = tokenizer(sentence, return_tensors="pt")
    return encoder(*(inputs[name] for name in names))[0].mean(0)
with torch.no_grad():
    numpy.save(target + "/reference.npy", torch.stack([pooled(each) for each in sentences]).numpy())
    ids = torch.ones(1, 8, dtype=torch.long)
    axes = {name: {0: "batch", 1: "sequence"} for name in [*names, "last_hidden_state"]}
    torch.onnx.export(encoder, (ids, ids, ids * 0), target + "/model.onnx", dynamo=False, opset_version=17,
                      input_names=names, output_names=["last_hidden_state"], dynamic_axes=axes)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 as torch exports it, and in `reference.npy` what transformers makes of the sentences."""
    folder = tmp_path_factory.mktemp("minilm")
    command(sys.executable, "-c", EXPORT, REAL / "minilm", folder, input=json.dumps(SENTENCES))
    return folder


@pytest.fixture(scope="module")
def minilm(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model in one file, and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(exported / "model.onnx", folder)
    shutil.copy(REAL / "minilm" / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows(tmp_path_factory.mktemp("samples"), [{"text": text} for text in CALIBRATION])


@pytest.fixture(scope="module")
def dynamic(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """What the shipped recipe makes."""
    target = tmp_path_factory.mktemp("dynamic")
    return target / "model.onnx", quantize(minilm, target, "model.onnx", recipe="onnx-int8-dynamic")


@pytest.fixture(scope="module")
def static(minilm: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done, list[Step | str]]:
    """What the shipped recipe makes, and what it tells meanwhile."""
    target = tmp_path_factory.mktemp("static")
    steps: list[Step | str] = []
    settings = find_recipe("onnx-int8-static").settings
    task = Task("onnxruntime", settings, minilm, target, ("model.onnx",), samples=texts, max_length=64)
    return target / "model.onnx", run(task, steps.append), steps


@pytest.fixture(scope="module")
def made(dynamic: tuple[Path, Done], static: tuple[Path, Done, list[Step | str]]) -> dict[str, Path]:
    """What each recipe makes of the model in one file."""
    return {"onnx-int8-dynamic": dynamic[0], "onnx-int8-static": static[0]}


def rows(folder: Path, documents: Iterable[Mapping[str, Any]]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def quantize(
    source: Path, target: Path, *files: str, recipe: str = "", samples: Path | None = None, length: int = 64, **own: Any
) -> Done:
    settings = {**(find_recipe(recipe).settings if recipe else {}), **own}
    task = Task("onnxruntime", settings, source, target, files, samples=samples, max_length=length)
    return run(task, lambda step: None)


def embeddings(path: Path) -> Any:
    """The sentences' mean token, of length one, in the words of a model in a file."""
    tokenizer = Tokenizer.from_file(str(REAL / "minilm" / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def embed(sentence: str) -> Any:
        ids = np.array([tokenizer.encode(sentence).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return session.run(None, feed)[0][0].mean(0)

    return normal(np.stack([embed(sentence) for sentence in SENTENCES]))


def normal(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cosines(one: Any, other: Any) -> Any:
    return (one * other).sum(-1)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def by_kind(modules: Iterable[Module]) -> Counter[tuple[str, str]]:
    return Counter((module.scheme, module.why) for module in modules)


def opsets(model: Any) -> dict[str, int]:
    return {entry.domain: entry.version for entry in model.opset_import}


def test_the_exported_model_is_the_model(exported: Path) -> None:
    reference = normal(np.load(exported / "reference.npy"))
    assert cosines(embeddings(exported / "model.onnx"), reference).min() > 0.99999
    assert cosines(reference[0], reference[7]) < 0.3  # so that a cosine says something


def test_dynamic(minilm: Path, dynamic: tuple[Path, Done]) -> None:
    path, done = dynamic
    assert done.files == {"model.onnx": ("model.onnx",)}
    assert names(path.parent) == ["model.onnx"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert 0.25 < path.stat().st_size / (minilm / "model.onnx").stat().st_size < 0.26
    found = cosines(embeddings(path), embeddings(minilm / "model.onnx"))
    assert found.min() > 0.98 and found.max() < 0.99999
    assert examine(parse_source(str(path.parent)).fetch()).ok


def test_dynamic_says_what_became_of_every_operator(dynamic: tuple[Path, Done]) -> None:
    """Six layers of six products with weights, and of two products of activations; three embeddings."""
    path, done = dynamic
    scheme = "int8 weights, dynamic uint8 activations"
    assert by_kind(done.modules) == {
        (scheme, ""): 36,
        ("uint8 weights", ""): 3,
        ("", "its weight is no constant"): 12,
    }
    schemes = {module.name: module.scheme for module in done.modules}
    assert schemes["/model/encoder/layer.0/attention/self/query/MatMul"] == scheme
    assert schemes["/model/embeddings/word_embeddings/Gather"] == "uint8 weights"
    assert not schemes["/model/encoder/layer.5/attention/self/MatMul_1"]
    graph = onnx.load(path).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["MatMulInteger"] == 36 and operators["MatMul"] == 12
    weights = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2]
    assert len(weights) == 36
    assert max(np.abs(numpy_helper.to_array(tensor).astype(int)).max() for tensor in weights) == 64  # seven bits


def test_an_operator_that_is_not_chosen_is_left(minilm: Path, tmp_path: Path) -> None:
    done = quantize(minilm, tmp_path, "model.onnx", mode="dynamic", op_types=["MatMul"])
    kinds = by_kind(done.modules)
    assert kinds["", "Gather is not among the recipe's operators"] == 3
    assert kinds["int8 weights, dynamic uint8 activations", ""] == 36


@pytest.mark.parametrize("recipe", RECIPES)
def test_twice_the_same(minilm: Path, texts: Path, made: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    quantize(minilm, tmp_path, "model.onnx", recipe=recipe, samples=texts)
    assert digests(tmp_path) == digests(made[recipe].parent)


def test_static(minilm: Path, static: tuple[Path, Done, list[Step | str]]) -> None:
    """Ranges for all tokens alike cost a transformer more than dynamic ones."""
    path, done, steps = static
    assert done.files == {"model.onnx": ("model.onnx",)}
    assert names(path.parent) == ["model.onnx"]
    assert 0.25 < path.stat().st_size / (minilm / "model.onnx").stat().st_size < 0.26
    found = cosines(embeddings(path), embeddings(minilm / "model.onnx"))
    assert found.min() > 0.90 and found.mean() > 0.93 and found.max() < 0.99999
    kinds = by_kind(done.modules)
    assert kinds == {
        ("int8 weights, static int8 activations", ""): 36,
        ("int8 weights", ""): 3,
        ("static int8 activations", ""): 12,
    }
    told = [step.done for step in steps if isinstance(step, Step) and step.unit == "samples"]
    assert told == list(range(1, len(CALIBRATION) + 1))
    assert opsets(onnx.load(path)) == opsets(onnx.load(minilm / "model.onnx"))
    assert examine(parse_source(str(path.parent)).fetch()).ok


def test_messages_are_samples_too(minilm: Path, made: dict[str, Path], texts: Path, tmp_path: Path) -> None:
    """Rows of one message each say what the texts say, so that the ranges are the same."""
    messages = [{"messages": [{"role": "user", "content": text}]} for text in CALIBRATION]
    quantize(minilm, tmp_path / "chats", "model.onnx", recipe=RECIPES[1], samples=rows(tmp_path, messages))
    assert digests(tmp_path / "chats") == digests(made[RECIPES[1]].parent)


def test_texts_are_cut(minilm: Path, made: dict[str, Path], texts: Path, tmp_path: Path) -> None:
    """To as many tokens as asked for, which shows in the ranges."""
    quantize(minilm, tmp_path / "short", "model.onnx", recipe=RECIPES[1], samples=texts, length=4)
    assert digests(tmp_path / "short") != digests(made[RECIPES[1]].parent)


def test_no_text_is_longer_than_the_model(minilm: Path, tmp_path: Path) -> None:
    """It has 512 positions, and whoever asks for 2048 tokens gets these."""
    source = tmp_path / "source"
    shutil.copytree(minilm, source)
    samples = rows(tmp_path, [{"text": "word " * 600}])
    with pytest.raises(Exception, match="512 by 602"):
        quantize(source, tmp_path / "made", "model.onnx", recipe=RECIPES[1], samples=samples, length=2048)
    for name, key in ("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length"):
        (source / name).write_text(json.dumps({key: 512}))
        quantize(source, tmp_path / name, "model.onnx", recipe=RECIPES[1], samples=samples, length=2048)
        assert names(tmp_path / name) == ["model.onnx"]
        (source / name).unlink()


def test_samples_without_tokens_are_refused(minilm: Path, tmp_path: Path) -> None:
    samples = rows(tmp_path, [{"text": "Fine."}, {"text": "  "}])
    with pytest.raises(UsageError, match="no tokens") as caught:
        quantize(minilm, tmp_path / "made", "model.onnx", recipe="onnx-int8-static", samples=samples)
    assert caught.value.subject == "samples.jsonl, row 2"
    assert caught.value.found == "2 special tokens, of 2 characters"
    assert names(tmp_path / "made") == []


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([], "there are no samples"),
        ([{"prompt": "x"}], "neither text, messages nor inputs"),
        ([{"messages": "x"}], "neither text, messages nor inputs"),
        ([{"inputs": {"input_ids": [[1]]}}], "every input of the model"),
    ],
)
def test_samples_that_do_not_fit(minilm: Path, tmp_path: Path, documents: list[Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        quantize(minilm, tmp_path / "made", "model.onnx", recipe="onnx-int8-static", samples=rows(tmp_path, documents))


def test_no_samples_and_no_tokenizer(exported: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs calibration samples"):
        quantize(exported, tmp_path / "made", "model.onnx", recipe="onnx-int8-static")
    with pytest.raises(UsageError, match="tokenizer"):
        quantize(exported, tmp_path / "made", "model.onnx", recipe="onnx-int8-static", samples=texts)
    assert names(tmp_path / "made") == []


CLASSIFIER = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"


def images(count: int, seed: int) -> Any:
    """Pictures like lines of dark letters on light ground, as the classifier of text's direction takes them."""
    random = np.random.default_rng(seed)
    made = np.full((count, 3, 48, 192), 0.9, np.float32)
    for image in made:
        for left in range(8, 180, 12):
            top, wide, high = random.integers(6, 16), random.integers(3, 10), random.integers(12, 28)
            image[:, top : top + high, left : left + wide] = random.uniform(-0.9, -0.3)
    return (made + random.normal(0, 0.02, made.shape)).astype(np.float32)


def outputs(path: Path, name: str, values: Any) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {name: values})[0]


def test_static_of_a_network_that_sees(tmp_path: Path) -> None:
    """Its nodes have no names, and its weights are nodes Constant: 53 convolutions and one product."""
    samples = rows(tmp_path, [{"inputs": {"x": image[None].round(3).tolist()}} for image in images(12, 1)])
    done = quantize(REAL / "rapidocr", tmp_path / "made", CLASSIFIER, recipe="onnx-int8-static", samples=samples)
    scheme = "int8 weights, static int8 activations"
    assert by_kind(done.modules) == {(scheme, ""): 54}
    assert all(module.name for module in done.modules)
    path = tmp_path / "made" / CLASSIFIER
    assert opsets(onnx.load(path)) == {"": 13}  # 11 has no scales for each channel
    assert path.stat().st_size < 0.6 * (REAL / "rapidocr" / CLASSIFIER).stat().st_size
    unseen = images(8, 2)
    before, after = outputs(REAL / "rapidocr" / CLASSIFIER, "x", unseen), outputs(path, "x", unseen)
    assert 0 < np.abs(before - after).max() < 0.2
    assert (before.argmax(1) == after.argmax(1)).all()


def test_weights_in_constants_are_weights(tmp_path: Path) -> None:
    """Dynamic quantization by itself would leave all of them."""
    done = quantize(REAL / "rapidocr", tmp_path, CLASSIFIER, mode="dynamic", op_types=["Conv", "MatMul"])
    assert by_kind(done.modules) == {("int8 weights, dynamic uint8 activations", ""): 54}
    unseen = images(8, 2)
    before, after = (outputs(folder / CLASSIFIER, "x", unseen) for folder in (REAL / "rapidocr", tmp_path))
    assert 0 < np.abs(before - after).max() < 0.2


def test_one_scale_for_a_weight_leaves_the_opset(tmp_path: Path) -> None:
    samples = rows(tmp_path, [{"inputs": {"x": image[None].round(3).tolist()}} for image in images(2, 1)])
    given: dict[str, Any] = {"mode": "static", "op_types": ["Conv"], "activation_type": "QUInt8"}
    done = quantize(REAL / "rapidocr", tmp_path / "made", CLASSIFIER, samples=samples, **given)
    assert by_kind(done.modules) == {
        ("int8 weights, static uint8 activations", ""): 53,
        ("", "Gemm is not among the recipe's operators"): 1,
    }
    assert opsets(onnx.load(tmp_path / "made" / CLASSIFIER)) == {"": 11}


def test_text_cannot_feed_a_network_that_sees(tmp_path: Path) -> None:
    samples = rows(tmp_path, [{"text": "What does it say?"}])
    with pytest.raises(UsageError, match="a text cannot be made the inputs") as caught:
        quantize(REAL / "rapidocr", tmp_path / "made", CLASSIFIER, recipe="onnx-int8-static", samples=samples)
    assert caught.value.found == "x: float32[?, 3, ?, ?]"
    assert '{"inputs": {"x": [...]}}' in caught.value.hint


@pytest.mark.parametrize("value", [[[0.0] * 4] * 3, "text", [[[[0.0, 0.1], [0.2]]]], [[[[0.0] * 4] * 4] * 2]])
def test_inputs_of_another_shape(tmp_path: Path, value: Any) -> None:
    """Too few dimensions, no numbers, ragged lists, and two colours where there are three."""
    samples = rows(tmp_path, [{"inputs": {"x": value}}])
    with pytest.raises(UsageError, match="not numbers of the input's shape") as caught:
        quantize(REAL / "rapidocr", tmp_path / "made", CLASSIFIER, recipe="onnx-int8-static", samples=samples)
    assert caught.value.subject == "samples.jsonl, row 1"


def test_dynamic_recurrent(tmp_path: Path) -> None:
    """An LSTM is quantized; the convolutions before it are not among the recipe's operators."""
    name = "silero_vad_16k_sequence.onnx"
    done = quantize(REAL / "silero-vad", tmp_path, name, recipe="onnx-int8-dynamic")
    assert by_kind(done.modules) == {
        ("int8 weights, dynamic uint8 activations", ""): 1,
        ("", "Conv is not among the recipe's operators"): 6,
    }
    feed = {"input": np.random.default_rng(0).normal(0, 0.1, (20, 576)).astype(np.float32)}
    feed |= {key: np.zeros((1, 1, 128), np.float32) for key in "hc"}
    before, after = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for folder in (REAL / "silero-vad", tmp_path)
    )
    assert 0 < np.abs(before - after).max() < 0.05


def test_what_lies_in_a_graph_inside_is_told(tmp_path: Path) -> None:
    """All of this model is in the branches of an If."""
    with pytest.raises(UsageError, match="quantizes nothing"):
        quantize(REAL / "silero-vad", tmp_path, "silero_vad.onnx", recipe="onnx-int8-dynamic")
    source = tmp_path / "source"
    source.mkdir()
    nodes = (
        helper.make_node("MatMul", ["x", "w"], ["h"], name="outside"),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["high"], to=TensorProto.BOOL),
        helper.make_node("If", ["high"], ["y"], name="if", then_branch=branch("w"), else_branch=branch("own")),
    )
    save(source / "model.onnx", *nodes, weights={"w": matrix()})
    done = quantize(source, tmp_path / "made", "model.onnx", recipe="onnx-int8-dynamic")
    why = "it lies inside If, where onnxruntime does not look"
    assert set(done.modules) == {
        Module("outside", "int8 weights, dynamic uint8 activations"),
        Module("if/product of w", why=why),
        Module("if/product of own", why=why),
    }


def branch(weight: str) -> Any:
    """A graph that multiplies h, which is not its own, by its own matrix or that of the graph around it."""
    own = [numpy_helper.from_array(matrix(5), "own")] if weight == "own" else []
    node = helper.make_node("MatMul", ["h", weight], [f"by_{weight}"], name=f"product of {weight}")
    value = helper.make_tensor_value_info(f"by_{weight}", TensorProto.FLOAT, ["n", 64])
    return helper.make_graph([node], weight, [], [value], own)


def test_nodes_stay_in_order(tmp_path: Path) -> None:
    """onnxruntime's quantizer puts what the branches of an If need behind it, which the checker of onnx refuses."""
    name = "silero_vad_16k_op15.onnx"
    done = quantize(REAL / "silero-vad", tmp_path, name, mode="dynamic", weight_type="QUInt8", op_types=["Conv"])
    assert by_kind(done.modules) == {("uint8 weights, dynamic uint8 activations", ""): 6}
    onnx.checker.check_model(str(tmp_path / name), full_check=True)


def test_a_result_that_does_not_load_is_refused(tmp_path: Path) -> None:
    """Of an operator that only its maker's programs have."""
    (tmp_path / "source").mkdir()
    nodes = helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Own", ["h"], ["y"], domain="maker.example")
    save(tmp_path / "source/model.onnx", *nodes, weights={"w": matrix()})
    model = onnx.load(tmp_path / "source/model.onnx")
    model.opset_import.append(helper.make_opsetid("maker.example", 1))
    onnx.save(model, tmp_path / "source/model.onnx")
    with pytest.raises(ModelError, match="does not load") as caught:
        quantize(tmp_path / "source", tmp_path / "made", "model.onnx", recipe="onnx-int8-dynamic")
    assert "maker.example" in str(caught.value.found)
    assert names(tmp_path / "made") == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_quantized_already_is_refused(
    dynamic: tuple[Path, Done], texts: Path, tmp_path: Path, recipe: str
) -> None:
    with pytest.raises(UsageError, match="quantized already") as caught:
        quantize(dynamic[0].parent, tmp_path, "model.onnx", recipe=recipe, samples=texts)
    assert "MatMulInteger" in str(caught.value.found)


def test_nothing_to_quantize_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    save(tmp_path / "source/model.onnx", helper.make_node("Relu", ["x"], ["y"]))
    with pytest.raises(UsageError, match="quantizes nothing") as caught:
        quantize(tmp_path / "source", tmp_path / "made", "model.onnx", recipe="onnx-int8-dynamic")
    assert caught.value.found == "1 Relu"
    assert str(caught.value.expected).startswith("MatMul or Attention")
    assert names(tmp_path / "made") == []


def save(path: Path, *nodes: Any, weights: Mapping[str, Any] | None = None, **members: Any) -> None:
    """A model of x, float32[?, 64], that gives y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    tensors = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **members)
    onnx.save(model, path)


def matrix(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.1, (64, 64)).astype(np.float32)


def test_metadata_stays(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    save(tmp_path / "source/model.onnx", node, weights={"w": matrix()}, doc_string="said", model_version=7)
    model = onnx.load(tmp_path / "source/model.onnx")
    helper.set_model_props(model, {"labels": "cat dog", "author": "somebody"})
    onnx.save(model, tmp_path / "source/model.onnx")
    samples = rows(tmp_path, [{"inputs": {"x": matrix(3).round(3).tolist()}}])
    for recipe in "onnx-int8-dynamic", "onnx-int8-static":
        quantize(tmp_path / "source", tmp_path / recipe, "model.onnx", recipe=recipe, samples=samples)
        made = onnx.load(tmp_path / recipe / "model.onnx")
        assert {pair.key: pair.value for pair in made.metadata_props} == {"labels": "cat dog", "author": "somebody"}
        assert (made.doc_string, made.model_version, made.ir_version) == ("said", 7, 8)
        assert opsets(made) == {"": 17}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gemm_is_quantized(tmp_path: Path, recipe: str) -> None:
    """One with its weight transposed and one without, and two products of what comes out of other operators."""
    (tmp_path / "source").mkdir()
    nodes = (
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1, name="first"),
        helper.make_node("Gemm", ["h", "v"], ["i"], name="second"),
        helper.make_node("Transpose", ["i"], ["p"], perm=[1, 0]),
        helper.make_node("MatMul", ["p", "i"], ["q"], name="third"),
        helper.make_node("MatMul", ["i", "q"], ["y"], name="fourth"),
    )
    weights = {"w": matrix(), "v": matrix(1), "b": matrix(2)[0]}
    save(tmp_path / "source/model.onnx", *nodes, weights=weights)
    samples = rows(tmp_path, [{"inputs": {"x": matrix(3).round(3).tolist()}}])
    done = quantize(tmp_path / "source", tmp_path / "made", "model.onnx", recipe=recipe, samples=samples)
    found = {module.name: module for module in done.modules}
    assert found["first"].is_quantized and found["second"].is_quantized
    assert "weights" in found["first"].scheme
    for name in "third", "fourth":
        assert found[name].why == "its weight is no constant" or found[name].scheme == "static int8 activations"
    before, after = (outputs(tmp_path / each / "model.onnx", "x", matrix(4)) for each in ("source", "made"))
    assert np.abs(before - after).max() <= 0.05 * max(np.abs(before).max(), 1e-6)


def test_attention_without_weights_is_left(tmp_path: Path) -> None:
    """The standard's operator has the name of onnxruntime's own, which it would be made."""
    (tmp_path / "source").mkdir()
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n", 64]) for name in "xy")
    nodes = (
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Attention", ["h", "x", "x"], ["y"], q_num_heads=4, kv_num_heads=4),
    )
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(matrix(), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "source/model.onnx")
    done = quantize(tmp_path / "source", tmp_path / "made", "model.onnx", recipe=RECIPES[0])
    assert done.modules == (Module("product", "int8 weights, dynamic uint8 activations"),)
    assert "Attention" in {node.op_type for node in onnx.load(tmp_path / "made/model.onnx").graph.node}


def with_data(source: Path, target: Path, location: str = "model.onnx_data") -> None:
    target.mkdir(parents=True, exist_ok=True)
    onnx.save_model(onnx.load(source), target / source.name, save_as_external_data=True, location=location)


@pytest.mark.parametrize(
    ("recipe", "link"),
    [(RECIPES[0], Path.symlink_to), (RECIPES[0], Path.hardlink_to), (RECIPES[1], Path.symlink_to)],
)
def test_external_data_joins_a_small_model(
    minilm: Path, made: dict[str, Path], texts: Path, tmp_path: Path, recipe: str, link: Any
) -> None:
    """What comes out is the same, bit by bit, as of the model in one file, though onnx refuses links by itself."""
    with_data(minilm / "model.onnx", tmp_path / "hidden")
    source = tmp_path / "source"
    (source / "onnx").mkdir(parents=True)
    for name in names(tmp_path / "hidden"):
        link(source / "onnx" / name, tmp_path / "hidden" / name)
    shutil.copy(minilm / "tokenizer.json", source)
    given = ("onnx/model.onnx", "onnx/model.onnx_data")
    done = quantize(source, tmp_path / "made", *given, recipe=recipe, samples=texts)
    assert done.files == {"onnx/model.onnx": ("onnx/model.onnx",), "onnx/model.onnx_data": ()}
    assert names(tmp_path / "made") == ["onnx/model.onnx"]
    assert (tmp_path / "made/onnx/model.onnx").read_bytes() == made[recipe].read_bytes()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_large_result_has_external_data(
    minilm: Path, made: dict[str, Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Large is here what has more than a million bytes."""
    monkeypatch.setattr(onnx_files, "EXTERNAL", 1_000_000)
    source = tmp_path / "source"
    with_data(minilm / "model.onnx", source)
    shutil.copy(minilm / "tokenizer.json", source)
    before = digests(source)
    done = quantize(source, tmp_path / "made", "model.onnx", "model.onnx_data", recipe=recipe, samples=texts)
    assert done.files == {"model.onnx": ("model.onnx",), "model.onnx_data": ("model.onnx_data",)}
    assert names(tmp_path / "made") == ["model.onnx", "model.onnx_data"]
    assert (tmp_path / "made/model.onnx").stat().st_size < 1_000_000
    assert examine(parse_source(str(tmp_path / "made")).fetch()).ok
    assert (embeddings(tmp_path / "made/model.onnx") == embeddings(made[recipe])).all()
    assert digests(source) == before


def test_external_data_has_a_name_even_if_there_was_none(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "EXTERNAL", 1_000_000)
    done = quantize(minilm, tmp_path, "model.onnx", recipe=RECIPES[0])
    assert done.files == {"model.onnx": ("model.onnx", "model.onnx.data")}
    assert names(tmp_path) == ["model.onnx", "model.onnx.data"]


def test_two_models_that_share_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets data of its own: the integers and scales need not be the same."""
    source = tmp_path / "source"
    source.mkdir()
    for name in "one", "two":
        save(source / f"{name}.onnx", helper.make_node("MatMul", ["x", "w"], ["y"]), weights={"w": matrix()})
        with_data(source / f"{name}.onnx", source, f"{name}.bin")
    (source / "two.bin").unlink()
    model = onnx.load(source / "two.onnx", load_external_data=False)
    for pair in model.graph.initializer[0].external_data:
        pair.value = "one.bin" if pair.key == "location" else pair.value
    (source / "two.onnx").write_bytes(model.SerializeToString())
    given = ("one.onnx", "two.onnx", "one.bin")
    done = quantize(source, tmp_path / "made", *given, recipe="onnx-int8-dynamic")
    assert done.files == {"one.onnx": ("one.onnx",), "two.onnx": ("two.onnx",), "one.bin": ()}
    assert [module.name for module in done.modules] == ["one.onnx: MatMul_0", "two.onnx: MatMul_0"]
    monkeypatch.setattr(onnx_files, "EXTERNAL", 1000)
    done = quantize(source, tmp_path / "large", *given, recipe="onnx-int8-dynamic")
    assert done.files["one.onnx"] == ("one.onnx", "one.onnx.data")
    assert done.files["one.bin"] == ()
    assert names(tmp_path / "large") == ["one.onnx", "one.onnx.data", "two.onnx", "two.onnx.data"]


def test_external_data_that_is_not_there(minilm: Path, tmp_path: Path) -> None:
    with_data(minilm / "model.onnx", tmp_path / "source")
    (tmp_path / "source/model.onnx_data").unlink()
    with pytest.raises(ModelError, match="external data is missing"):
        quantize(tmp_path / "source", tmp_path / "made", "model.onnx", recipe="onnx-int8-dynamic")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ModelError, match="no ONNX model"):
        quantize(tmp_path, tmp_path / "made", "model.onnx", recipe="onnx-int8-dynamic")


def test_files_of_another_format(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ONNX model"):
        quantize(minilm, tmp_path / "made", "model.gguf", recipe=RECIPES[0])


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({}, "mode"),
        ({"mode": "static "}, "mode"),
        ({"mode": "dynamic"}, "op_types"),
        ({"mode": "dynamic", "op_types": "MatMul"}, "op_types"),
        ({"mode": "dynamic", "op_types": ["Matmul"]}, "op_types"),
        ({"mode": "dynamic", "op_types": ["MatMul"], "weight_type": "int8"}, "weight_type"),
        ({"mode": "dynamic", "op_types": ["MatMul"], "activation_type": "QInt8"}, "activation_type"),
        ({"mode": "dynamic", "op_types": ["MatMul"], "per_channel": 1}, "per_channel"),
        ({"mode": "dynamic", "op_types": ["MatMul"], "bits": 4}, ""),
    ],
)
def test_settings_that_cannot_be(minilm: Path, tmp_path: Path, settings: dict[str, Any], subject: str) -> None:
    with pytest.raises(UsageError) as caught:
        quantize(minilm, tmp_path, "model.onnx", **settings)
    assert caught.value.subject == subject
    assert caught.value.expected


def test_nothing_is_left_behind(minilm: Path, dynamic: tuple[Path, Done], tmp_path: Path) -> None:
    """Not in the folder for temporary files either, which may be small."""
    assert not [path for path in dynamic[0].parent.iterdir() if path.is_dir()]
    assert names(minilm) == ["model.onnx", "tokenizer.json"]


def test_a_text_is_as_long_as_the_model_demands(minilm: Path, texts: Path, tmp_path: Path) -> None:
    """Exported for 16 tokens and no other number."""
    source = tmp_path / "source"
    shutil.copytree(minilm, source)
    model = onnx.load(source / "model.onnx")
    for value in model.graph.input:
        for size, length in zip(value.type.tensor_type.shape.dim, (1, 16), strict=True):
            size.dim_value = length
    onnx.save(model, source / "model.onnx")
    quantize(source, tmp_path / "made", "model.onnx", recipe="onnx-int8-static", samples=texts)
    assert os.path.getsize(tmp_path / "made/model.onnx") < 30_000_000
