"""What the files of one model must hold to together."""

from __future__ import annotations

from formats.findings import Rule, Severity

_HUB = "transformers, modeling_utils: the sharded checkpoint and its index"
_CONFIG = "transformers, the model's configuration class"

NO_WEIGHTS = Rule(
    "model-no-weights",
    "there is no weight file in this model",
    "A folder without safetensors, GGUF or ONNX would be published as an image that mounts and serves nothing.",
    "a rule of packer",
    "name the folder that holds the weights; subfolders are searched too",
)
UNREADABLE = Rule(
    "model-unreadable",
    "this cannot be read",
    "What cannot be read cannot be judged.",
    "a rule of packer",
    "see what was found, and run it again",
)
INDEX_MISSING = Rule(
    "model-index-missing",
    "it is one of several shards, and no index binds them",
    "transformers finds the shards of a model by its index alone, and does not load a folder without one. Servers that take "
    "every file in it work, so this is told and not refused.",
    _HUB,
    "write the index, with packer shard or packer merge",
    Severity.WARNING,
)
SHARD_MISSING = Rule(
    "model-shard-missing",
    "this shard is missing",
    "Files named -00001-of-00003 come as all three. A server that loads two of them fails, or serves random weights.",
    _HUB,
    "fetch the missing file; an interrupted download leaves models like this",
)
INDEX_JSON = Rule(
    "model-index-json",
    "it is no index of shards",
    "The index is a JSON object whose weight_map maps every tensor to the file that holds it. More than 16 MiB or 200,000 "
    "tensors, and beyond 6 MiB anything but maps of plain texts, are refused on purpose, to bound what an index can cost.",
    _HUB,
    "fetch the index again, or write it with packer shard",
)
INDEX_SHARD_MISSING = Rule(
    "model-index-shard-missing",
    "a shard that the index names is missing",
    "Loaders open every file that the index names, and stop at the first that is not there.",
    _HUB,
    "fetch the missing file; an interrupted download leaves models like this",
)
INDEX_TENSOR_MISSING = Rule(
    "model-index-wrong-shard",
    "it is not in the file that the index names",
    "Loaders look for the tensor where the index says, and nowhere else.",
    _HUB,
    "write the index again, with packer shard",
)
INDEX_TENSOR_EXTRA = Rule(
    "model-index-extra-tensor",
    "it is in a shard, and the index does not name it",
    "Loaders that follow the index never see the tensor: the weight is left at random values, silently.",
    _HUB,
    "write the index again, with packer shard",
)
INDEX_SIZE = Rule(
    "model-index-total-size",
    "its total_size is not the sum of its tensors",
    "Tools plan memory by total_size. Nothing fails to load, and exporters that count tied weights twice write it wrong, "
    "so this is told and not refused.",
    _HUB,
    "write the index again, with packer shard",
    Severity.WARNING,
)
SHARD_OVERSIZE = Rule(
    "model-shard-oversize",
    "it is larger than max_size",
    "No tensor is split over files: no format could say so. A file may also be larger because of what cannot leave it: "
    "metadata, or constants in the graph of an ONNX model. A registry or a disk that refuses the file needs another limit, "
    "or another model.",
    "packer shard",
    "raise max_size if that limit is not needed, or quantize the model first",
    Severity.WARNING,
)
TENSOR_TWICE = Rule(
    "model-tensor-twice",
    "it stands in two shards of one model",
    "Which of the two is loaded depends on the order in which a server reads the files.",
    _HUB,
    "remove the stale file; two exports were mixed in one folder",
)
CONFIG_JSON = Rule(
    "model-config-json",
    "this is not JSON",
    "Servers read config.json before anything else. More than 6 MiB or 100,000 values are refused on purpose, to bound "
    "what a document can cost; configurations have some kilobytes.",
    "transformers, PretrainedConfig.from_json_file",
    "fetch the file again",
)
CONFIG_LAYERS = Rule(
    "model-config-layers",
    "the number of layers in the tensors is not that of config.json",
    "Layers that are missing are left at random values or stop the server; layers too many are weights of another model.",
    _CONFIG,
    "fetch config.json and the weights from one revision",
)
CONFIG_LAYER_PARTS = Rule(
    "model-config-layer-parts",
    "a layer lacks a module that the other layers have",
    "All layers of these architectures are alike. Loaders leave a weight that they do not find at random values, with a "
    "warning that nobody reads, or stop.",
    "transformers, the model's class: its list of layers",
    "fetch the weights again, or ask the author; a rename or a lost shard leaves models like this",
)
CONFIG_NO_EMBEDDING = Rule(
    "model-config-embedding-missing",
    "there is no embedding",
    "A language model begins with the embedding of its tokens; without it every token is random numbers.",
    "transformers, the model's class: get_input_embeddings",
    "fetch the shard that holds it",
)
CONFIG_EMBEDDING = Rule(
    "model-config-embedding",
    "its shape is not vocab_size by hidden_size of config.json",
    "The embedding fixes both sizes; a server that allocates by config.json fails while it loads.",
    _CONFIG,
    "fetch config.json and the weights from one revision",
)
CONFIG_HEAD = Rule(
    "model-config-head-missing",
    "there is no output head, and config.json says that it is not tied to the embedding",
    "A causal language model without lm_head and without tied embeddings answers with random words.",
    "transformers, PretrainedConfig.tie_word_embeddings",
    "set tie_word_embeddings, or fetch the shard with lm_head.weight",
)
CONFIG_QUANTIZED = Rule(
    "model-config-quantization",
    "quantization_config says that the model is quantized, and its tensors are not",
    "A server chooses its kernels by quantization_config and reads weights in a dtype that is not there.",
    "compressed-tensors, quantization_config; transformers, quantizers",
    "remove quantization_config, or fetch the quantized weights",
)
CONFIG_SCALES = Rule(
    "model-config-scale-missing",
    "it is quantized and has no scale beside it",
    "Without its scale a quantized weight is off by orders of magnitude, and the answers are noise.",
    "compressed-tensors: weight_scale; DeepSeek FP8: weight_scale_inv",
    "fetch the shard with the scales, or quantize again",
)
CONFIG_UNDECLARED = Rule(
    "model-config-undeclared",
    "it is in FP8, and config.json has no quantization_config",
    "A server takes the numbers as they are, without their scales.",
    "transformers, quantizers",
    "add the quantization_config of the recipe that made the weights",
    Severity.WARNING,
)
ADAPTER_CONFIG = Rule(
    "model-adapter-config",
    "this is no usable LoRA configuration",
    "An adapter is loaded by the r and target_modules of adapter_config.json. More than 6 MiB or 100,000 values are refused "
    "on purpose, to bound what a document can cost.",
    "peft, LoraConfig",
    "fetch adapter_config.json again from where the adapter was trained",
)
ADAPTER_RANK = Rule(
    "model-adapter-rank",
    "its rank is not that of adapter_config.json",
    "lora_A has r rows and lora_B r columns; servers reserve memory by r and fail on another.",
    "peft, LoraConfig.r and rank_pattern; vLLM, --max-lora-rank",
    "fetch both files from one training run",
)
ADAPTER_PAIR = Rule(
    "model-adapter-pair",
    "it has no partner: lora_A and lora_B come in pairs",
    "Half of a pair adds nothing or stops the server.",
    "peft, LoraLayer",
    "fetch the adapter again",
)
ADAPTER_TARGETS = Rule(
    "model-adapter-targets",
    "the modules with weights are not the target_modules of adapter_config.json",
    "A module that is named and has no weights keeps its base behaviour silently; one that is not named is not loaded.",
    "peft, LoraConfig.target_modules",
    "fetch both files from one training run",
)
ADAPTER_BASE = Rule(
    "model-adapter-base",
    "it does not name its base model",
    "An adapter changes one model and harms every other.",
    "peft, base_model_name_or_path",
    "add base_model_name_or_path",
    Severity.WARNING,
)
