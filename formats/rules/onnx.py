"""What an ONNX model must hold to: https://github.com/onnx/onnx/blob/main/docs/IR.md."""

from __future__ import annotations

from formats.findings import Rule, Severity

_IR = "ONNX, docs/IR.md"
_AGAIN = "export the model again, and compare its size and digest with those of its source"

PROTOBUF = Rule(
    "onnx-protobuf",
    "it is truncated, or no ONNX model",
    "An ONNX file is one protobuf message; a length in it that leads beyond the file is the mark of a copy that was "
    "interrupted. Stricter than protobuf on purpose: a model with two graphs, which it would merge, groups, which no "
    "ONNX model has, and names of tensors that are not UTF-8, which only some programs take, are refused.",
    "ONNX, onnx/onnx.proto",
    "fetch the file again, or export the model again",
)
TOO_LARGE = Rule(
    "onnx-too-large",
    "it is larger than packer reads",
    "A protobuf ends at 2 GiB. Stricter on purpose: what is left of it without its tensors has to fit in 16 MiB, in 48 MiB "
    "of memory as objects, and to import at most 100 operator sets, because a few megabytes of empty messages take "
    "gigabytes in a program that reads them. Models of fifty thousand nodes fit.",
    "protobuf, size limit; a bound of packer",
    "export the weights as external data",
)
CHECKER = Rule(
    "onnx-checker",
    "the ONNX checker refuses it",
    "The checker holds a model to the standard: versions, names, operators, attributes, order of the nodes. Runtimes "
    "fail on what it refuses, or compute something else.",
    "onnx.checker.check_model",
    _AGAIN,
)
TYPE = Rule(
    "onnx-tensor-type",
    "it has an unknown type or a negative size",
    "A tensor's type is one of TensorProto.DataType, its sizes are not negative. Stricter than the checker on purpose: it "
    "takes any type with raw data, and more than 64 dimensions, which no program computes with.",
    f"{_IR}, section Standard data types",
    _AGAIN,
)
SIZE = Rule(
    "onnx-tensor-size",
    "its bytes do not fit its shape",
    "A runtime that trusts the shape reads beyond the data. Stricter than the checker on purpose: bytes beyond those that "
    "the shape needs are no weights, and can hide anything.",
    "ONNX, onnx.proto: raw_data",
    _AGAIN,
)
NO_DATA = Rule(
    "onnx-no-data",
    "it has no data, or more than one kind of it",
    "An initializer without values leaves the runtime to fail or to invent some; one with two kinds leaves it the choice. "
    "Stricter than protobuf on purpose: a payload in two pieces, which it would join, is refused.",
    "ONNX, onnx.proto: exactly one of the data fields",
    _AGAIN,
)
EXTERNAL_PATH = Rule(
    "onnx-external-path",
    "the path of its external data is refused",
    "The location is relative and stays in the folder: a model that names ../../etc/shadow would be served it. Stricter "
    "than the checker on purpose: one location for each tensor, without empty parts, backslashes or control characters, "
    "and none for a sparse tensor, whose indices could not be checked.",
    "ONNX, docs/ExternalData.md: location",
    "export the model again, with its data beside it",
)
EXTERNAL_MISSING = Rule(
    "onnx-external-missing",
    "the file with its data is missing",
    "The weights are in a file beside the model, which was not fetched along.",
    "ONNX, docs/ExternalData.md: location",
    "give the folder that holds both files, and let `include` match both",
)
EXTERNAL_RANGE = Rule(
    "onnx-external-range",
    "its external data is truncated: it ends beyond its file",
    "Offset and length must lie inside the file; a data file that was cut short shows here.",
    "ONNX, docs/ExternalData.md: offset, length",
    "fetch the data file again",
)
OPSET = Rule(
    "onnx-opset",
    "it is of a version of the ONNX standard that is not known here",
    "What an operator computes hangs on the version of its set. Runtimes refuse a version that is newer than they are; the "
    "checker does not, and looks the operators up in the newest that it knows. Stricter than the checker on purpose.",
    f"{_IR}, section Operator sets; onnx.defs",
    "export the model for an older opset; if the version exists, use a newer packer",
)
FOREIGN = Rule(
    "onnx-foreign-operators",
    "it uses operators that are not of the ONNX standard",
    "Only a runtime that brings these operators can run the model; com.microsoft's are ONNX Runtime's own.",
    f"{_IR}, section Operator sets",
    "check that the server has them",
    Severity.WARNING,
)
