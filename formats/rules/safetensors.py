"""What a safetensors file must hold to: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

from formats.findings import Rule, Severity

_FORMAT = "safetensors README, section Format"
_AGAIN = "fetch or export the file again, and compare its size and digest with those of its source"

LENGTH = Rule(
    "safetensors-header-length",
    "it is cut short, or is no safetensors file: its first eight bytes are no possible header length",
    "The file begins with the length of its header. A wrong one makes a reader take weights for text, or reserve memory "
    "for a header that never comes. Headers longer than 16 MiB are refused on purpose, though the format allows 100 MB: "
    "16 MiB hold a hundred thousand tensors, and no file may cost a reader hundreds of megabytes before it is known.",
    _FORMAT,
    _AGAIN,
)
JSON = Rule(
    "safetensors-json",
    "its JSON is malformed",
    "The header is one JSON object in UTF-8 that maps names to flat objects of dtype, shape and data_offsets. What other "
    "readers make of broken JSON differs, so the same file would be a different model on another machine. Stricter than "
    "the safetensors library on purpose: the brace is the first byte, as the format says, an entry is an object of "
    "at most 1 MiB and never a list, and __metadata__ is not null; no writer makes such files.",
    _FORMAT,
    _AGAIN,
)
DUPLICATE = Rule(
    "safetensors-duplicate-key",
    "its JSON is malformed: a name stands twice",
    "Of two tensors with one name some readers keep the first and some the last. Stricter than the safetensors library on "
    "purpose: it keeps the last, though the format forbids them.",
    f"{_FORMAT}: duplicate keys are disallowed",
    "export the file again, with a writer that names each tensor once",
)
METADATA = Rule(
    "safetensors-metadata",
    "__metadata__ is not a map of strings",
    "Every reader gives the metadata as a map from text to text; anything else stops it. More than "
    "10,000 of them, or more than 4 MiB, are refused on purpose, to bound what a header can cost.",
    f"{_FORMAT}: __metadata__",
    "write the metadata again, every value as a string",
)
NAME = Rule(
    "safetensors-name-too-long",
    "its name is too long",
    "The format names no bound. Ours, 4096 characters, is on purpose: names are shown and compared everywhere, and a "
    "megabyte of them in one entry only costs time.",
    "a bound of packer",
    "export the model with shorter names",
)
COUNT = Rule(
    "safetensors-too-many-tensors",
    "it has too many tensors",
    "The format names no bound. Ours, 80,000, is on purpose: a million empty tensors in a few megabytes would cost a reader "
    "hundreds of megabytes of memory. The largest models known have two hundred thousand, over many files.",
    "a bound of packer",
    "split the model into several files",
)
ENTRY = Rule(
    "safetensors-entry",
    "it lacks dtype, shape or data_offsets, or one of them is malformed",
    "Every tensor has a dtype, a shape of sizes and two offsets; without them there is nothing to load.",
    _FORMAT,
    _AGAIN,
)
DTYPE = Rule(
    "safetensors-dtype",
    "it has an unknown dtype",
    "The safetensors library refuses a file with a dtype that it does not know, and its older versions know fewer.",
    "safetensors, enum Dtype",
    "export the tensor in a dtype of the list, or use a newer packer",
)
RANK = Rule(
    "safetensors-rank",
    "it has too many dimensions",
    "The format names no bound. Ours, 64, is on purpose: no library computes with more, and a shape of a hundred thousand "
    "dimensions takes minutes to multiply.",
    "a bound of packer; PyTorch and NumPy stop at 64",
    "reshape the tensor",
)
SIZE = Rule(
    "safetensors-size",
    "its bytes do not fit its shape",
    "The range of bytes must be as long as dtype and shape say, or values are read from a neighbour.",
    f"{_FORMAT}: data_offsets",
    _AGAIN,
)
TILING = Rule(
    "safetensors-tiling",
    "there is a hole or an overlap before it",
    "Tensors fill the buffer without holes, so that nothing can be hidden in a file, and without overlaps, so that no "
    "tensor changes with another.",
    f"{_FORMAT}: the byte buffer needs to be entirely indexed, and cannot contain holes",
    _AGAIN,
)
TRUNCATED = Rule(
    "safetensors-truncated",
    "it is truncated",
    "The last tensor ends beyond the file: a download or a copy was interrupted.",
    _FORMAT,
    "fetch the file again; an interrupted download leaves files like this",
)
TRAILING = Rule(
    "safetensors-trailing-bytes",
    "there are bytes behind the last tensor",
    "Bytes that no tensor names can hide anything, and the safetensors library refuses the file.",
    f"{_FORMAT}: the byte buffer needs to be entirely indexed",
    _AGAIN,
)
ALIGNMENT = Rule(
    "safetensors-alignment",
    "it does not begin at a multiple of its element's size",
    "Readers that map the file hand the bytes to code that wants aligned addresses, and copy the tensor if they are not. "
    "The safetensors library pads its headers to eight bytes and sorts tensors by element size for this; a file that "
    "does not loads more slowly, or not at all in strict readers.",
    "safetensors, function serialize",
    "write the file again with the safetensors library, or with packer shard or merge",
    Severity.WARNING,
)
