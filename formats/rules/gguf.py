"""What a GGUF file must hold to: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

from formats.findings import Rule, Severity

_SPEC = "gguf.md, section File Structure"
_READER = "llama.cpp, gguf_init_from_file"
_AGAIN = "fetch or convert the file again, and compare its size and digest with those of its source"

MAGIC = Rule(
    "gguf-magic",
    "it does not begin as a GGUF file",
    "The first four bytes are GGUF; a file without them is something else, or damaged from the start.",
    _SPEC,
    _AGAIN,
)
VERSION = Rule(
    "gguf-version",
    "its version is not supported",
    "Versions 2 and 3 are in use, in both byte orders; no current program reads version 1.",
    _SPEC,
    "convert the model again with a current converter",
)
TRUNCATED = Rule(
    "gguf-truncated",
    "it is truncated",
    "Something that the file announces lies beyond its end: a download or a copy was interrupted. Stricter than gguf-py on "
    "purpose, which takes a last text that is cut off.",
    _SPEC,
    "fetch the file again; an interrupted download leaves files like this",
)
COUNTS = Rule(
    "gguf-counts",
    "its counts cannot fit its size: it is truncated or lies",
    "A reader that believes the counts reserves memory for what is not there. More than 65,536 tensors or keys are refused on "
    "purpose, to bound what a header can cost; models with more come in parts.",
    f"{_SPEC}: tensor_count, metadata_kv_count",
    _AGAIN,
)
KEY = Rule(
    "gguf-key",
    "a key of its metadata is malformed or stands twice",
    "Keys are texts in UTF-8 of at most 65,535 bytes, as the specification says, each once; of two with one name some "
    "readers keep the first and some the last, and gguf-py has GGUF.version and two more for itself. Keys and values of more than 16 MiB in all are refused on purpose, to "
    "bound what a header can cost.",
    "gguf.md, section Standardized key-value pairs; gguf-py, GGUFReader",
    _AGAIN,
)
VALUE = Rule(
    "gguf-value",
    "a value of its metadata is malformed",
    "Values have one of thirteen types; texts and arrays announce their length, which must fit the file. Arrays "
    "nested more than four deep, more than 64 of them in another, and arrays of more than 32 MiB in all (the largest vocabularies take a third of that), are refused "
    "on purpose, to bound what a header can cost.",
    f"{_SPEC}: gguf_metadata_value_type",
    _AGAIN,
)
TEXT = Rule(
    "gguf-too-long",
    "its text is too long: the file is truncated or lies",
    "A length that cannot be right would make a reader reserve gigabytes. The bounds are ours on purpose: 1 MiB "
    "for a text (chat templates are the largest), 16 MiB for all that is kept of the metadata.",
    f"{_SPEC}: gguf_string_t",
    _AGAIN,
)
ALIGNMENT = Rule(
    "gguf-alignment",
    "general.alignment must be a power of two in a UINT32",
    "All offsets are computed with it; readers refuse anything else.",
    "gguf.md, general.alignment; gguf-py, GGUFReader",
    "convert the model again",
)
NAME = Rule(
    "gguf-tensor-name",
    "its name is malformed, too long, or stands twice",
    "Names are UTF-8 of at most 63 bytes: ggml keeps them in 64 and refuses longer ones, though gguf-py reads them.",
    f"{_READER}; ggml, GGML_MAX_NAME",
    "convert the model again with shorter names",
)
RANK = Rule(
    "gguf-rank",
    "it has too many dimensions",
    "ggml computes with at most four, and refuses more, though gguf-py reads them.",
    "gguf.md, n_dimensions",
    _AGAIN,
)
TYPE = Rule(
    "gguf-type",
    "it has an unknown type",
    "A type that the reader does not know has no size, and everything behind it is lost.",
    "gguf.md, ggml_type; gguf-py, GGML_QUANT_SIZES",
    "use a newer packer if llama.cpp loads the file; else convert it again",
)
BLOCK = Rule(
    "gguf-misaligned",
    "it is misaligned: its offset or its rows are no multiple of what its type wants",
    "Rows are made of whole blocks, and tensors begin at multiples of the alignment; servers map them where they lie. "
    "llama.cpp refuses anything else; gguf-py looks only at the blocks.",
    "gguf.md, general.alignment and tensor_data",
    _AGAIN,
)
SIZE = Rule(
    "gguf-tensor-size",
    "its sizes come to more bytes than a program can count",
    "The product of the sizes overflows 64 bits, also where one of them is zero and nothing is stored. A program that "
    "does not look reserves too little and writes beyond it. Stricter than gguf-py on purpose where its arrays allow it.",
    f"{_READER}; gguf-py, GGUFReader",
    _AGAIN,
)
OVERLAP = Rule(
    "gguf-overlap",
    "it and its neighbour overlap",
    "Two tensors on the same bytes: one of them is wrong. llama.cpp does not load such a file; gguf-py does not look.",
    "gguf.md, tensor_data",
    _AGAIN,
)
ORDER = Rule(
    "gguf-order",
    "it does not follow its neighbour in the file",
    "llama.cpp wants the tensors in the order of the table, each right behind the one before it, padded to the "
    "alignment, and does not load a file with holes; gguf-py does not look.",
    _READER,
    "write the file again, with packer merge or a converter",
)
TRAILING = Rule(
    "gguf-trailing-bytes",
    "bytes stand behind its last tensor",
    "They are no weights, and can hold anything: what was left of a larger file, or what somebody hid there. llama.cpp and "
    "gguf-py load the file and do not look, so this is told and not refused, unless it is a zip archive with a pickle.",
    "gguf.md, tensor_data",
    "fetch the file again, or write it again with packer shard or packer merge",
    Severity.WARNING,
)
KEYS = Rule(
    "gguf-missing-key",
    "a key that its architecture needs is missing",
    "llama.cpp stops at the first key that it needs and does not find. gguf-py does not look: it knows no architectures.",
    "gguf.md, section LLM; llama.cpp, load_hparams",
    "convert the model again with a current converter",
)
LAYERS = Rule(
    "gguf-layers",
    "the number of layers in the tensors is not block_count",
    "A layer that is missing stops the server; one too many is a weight of another model. gguf-py does not look.",
    "gguf.md, [llm].block_count",
    "convert the model again",
)
EMBEDDING = Rule(
    "gguf-embedding",
    "its shape is not vocabulary by embedding_length",
    "The embedding and the head have one row for each token of the vocabulary; a server that finds another number fails. "
    "gguf-py does not look.",
    "gguf.md, [llm].embedding_length and tokenizer.ggml.tokens",
    "convert the model again",
)
SHAPE = Rule(
    "gguf-shape",
    "its shape is not that of the keys of its architecture",
    "llama.cpp computes the shape of every tensor from embedding_length, feed_forward_length, the numbers of heads and their "
    "lengths, and does not load a file in which one differs. Asked of architectures with the layers of Llama (Mistral, Qwen, "
    "Gemma, Phi 3, Granite and more), whose shapes are certain. gguf-py does not look.",
    "gguf.md, section LLM; llama.cpp, load_tensors",
    "convert the model again; the keys were not those of the weights",
)
TOKENIZER = Rule(
    "gguf-tokenizer",
    "the arrays of its tokenizer do not fit each other",
    "tokens, scores and token_type have one entry for each token, and the special tokens are among them. Servers read "
    "beyond an array that is too short; gguf-py does not look.",
    "gguf.md, section Tokenizer",
    "convert the model again; the tokenizer's files were not those of the weights",
)
SPLIT = Rule(
    "gguf-split",
    "the parts of this model do not fit each other",
    "Parts are numbered by split.no below split.count, agree with their names, and hold split.tensors.count tensors "
    "together; llama.cpp stops at the first that does not, and gguf-py reads each part by itself.",
    "llama.cpp, gguf-split and llama_model_loader",
    "fetch all parts from one revision, or split again with packer shard",
)
