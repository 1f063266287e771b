"""What the files of one model must hold to together."""

from __future__ import annotations

from formats.findings import Rule, Severity

_HUB = "transformers, modeling_utils: the sharded checkpoint and its index"
_CONFIG = "transformers, the model's configuration class"
_SCHEMES = "compressed-tensors, QuantizationConfig and QuantizationArgs"

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
    "Files named -00001-of-00003 that no index names come as all three; where an index names them, the number is only a "
    "name. A server that loads two of them fails, or serves random weights.",
    _HUB,
    "fetch the missing file, which an interrupted download leaves behind; or give the folder instead of one file of it",
)
INDEX_JSON = Rule(
    "model-index-json",
    "it is no index of shards",
    "The index is a JSON object whose weight_map maps every tensor to the file that holds it; no name stands twice, and all "
    "text is such as UTF-8 can hold. Refused on purpose: more than 32 MiB, names that take more than 48 MiB in memory (some "
    "280,000 tensors of usual names; the largest index that is known has 207,000), more than 4096 files, beyond 6 MiB "
    "anything but maps of texts and numbers, and below it more than 100,000 values. An index costs up to 58 MB, and that "
    "besides what the headers of the files cost that it names.",
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
INDEX_OUTSIDE = Rule(
    "model-index-outside",
    "the index names a path that leads out of its folder",
    "A model is a folder: what lies outside of it is not checked and not published, and a loader that followed the path would "
    "read whatever lies there.",
    "a rule of packer",
    "put the file beside the index, and write the index again",
)
INDEX_FOREIGN = Rule(
    "model-index-foreign-file",
    "the index names a file that is no safetensors file",
    "Loaders open every file that the index names as safetensors, and stop at another.",
    _HUB,
    "write the index again, with packer shard",
)
INDEX_UNNAMED = Rule(
    "model-index-unnamed-file",
    "it lies beside an index, and no index names it",
    "transformers loads what the index names; servers that take every file in a folder load this one too, with whatever it "
    "holds. consolidated*.safetensors, which Mistral publishes beside others, and adapter_model.safetensors are passed over.",
    _HUB,
    "remove the file if it is a rest of another export, or leave it out with --include",
    Severity.WARNING,
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
    "Which of the two is loaded depends on the order in which a server reads the files. Shards of one model are the files "
    "that an index names, and those of one folder that are numbered alike.",
    _HUB,
    "remove the stale file; two exports were mixed in one folder",
)
CONFIG_JSON = Rule(
    "model-config-json",
    "this is no JSON object that all programs read alike",
    "Servers read config.json before anything else, and the documents of the tokenizer, of the generation and of the processor "
    "as they load a model; each is a JSON object. A name that stands twice is refused here and in every *config.json: of two "
    "values one program takes the first and another the last, so that an auto_map can be hidden. Of a tokenizer beyond "
    "1 MiB only the first and the last characters are looked at, whether they are those of an object. A config.json of more "
    "than 6 MiB or 100,000 values is refused on purpose, to bound what a document can cost; configurations have some "
    "kilobytes.",
    "transformers, PretrainedConfig.from_json_file; tokenizers, Tokenizer.from_file",
    "fetch the file again",
)
CONFIG_NAMES = Rule(
    "model-config-names",
    "its model_type is known, and no tensor has a name of that architecture",
    "transformers loads by names: what has none of them is left at random values. Weights that another program reads are "
    "named in its own way, so this is told and not refused; nothing else in config.json could be compared with them. Draft "
    "models are passed over.",
    "transformers, the model's class: its modules",
    "fetch config.json and the weights from one revision, or convert the weights to the names of transformers",
    Severity.WARNING,
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
    "A language model begins with the embedding of its tokens; without it every token is random numbers. Asked of the names "
    "of transformers and of Mistral, and not of draft models, which take the embedding and the head of another.",
    "transformers, the model's class: get_input_embeddings",
    "fetch the shard that holds it",
)
CONFIG_EMBEDDING = Rule(
    "model-config-embedding",
    "its shape is not vocab_size by hidden_size of config.json",
    "The embedding fixes both sizes, and so does a head that is not tied to it; a server that allocates by config.json fails while it loads.",
    _CONFIG,
    "fetch config.json and the weights from one revision",
)
CONFIG_VALUE = Rule(
    "model-config-value",
    "a size in it is none that a model can have",
    "Sizes are whole numbers above zero, heads divide hidden_size where no head_dim is given, and the heads of keys divide "
    "those of queries. Programs that compute with anything else stop before they load a weight. Asked of the sizes of known "
    "architectures.",
    _CONFIG,
    "fetch config.json again; a number in quotes is a text",
)
CONFIG_SHAPE = Rule(
    "model-config-shape",
    "its shape is not that which config.json gives it",
    "A server that allocates by config.json fails while it loads, or serves a model of random weights. Asked of attention, "
    "feed-forward and normalization of known architectures under the names of transformers and of Mistral; of sizes that "
    "config.json does not give, and of weights that are packed, nothing is asked. A warning where the model brings classes of "
    "its own (auto_map), which may compute with other shapes.",
    "transformers, the model's class: its modules",
    "fetch config.json and the weights from one revision",
)
CONFIG_ALIKE = Rule(
    "model-config-layer-shapes",
    "it has another shape than in the other layers",
    "Layers are mostly alike. Of architectures that this program does not know, and whose config.json lists nothing for each "
    "layer, a part that has one shape in nearly all layers and another in one or few is told and not refused.",
    "a rule of packer",
    "compare it with what the author publishes; a layer of another model leaves models like this",
    Severity.WARNING,
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
    "Without its scale a quantized weight is off by orders of magnitude, and the answers are noise. In the same way a "
    "sparse weight needs its bitmask, one that is packed its shape, one whose quantization is not symmetric its zero point, and "
    "a module whose activations are quantized by a constant its input_scale.",
    "compressed-tensors: weight_scale, scale_packed, bitmask, weight_shape, weight_zero_point, input_scale; DeepSeek FP8: "
    "weight_scale_inv",
    "fetch the shard with the scales, or quantize again",
)
CONFIG_WEIGHT_TYPE = Rule(
    "model-config-weight-type",
    "its type is not that of its scheme in quantization_config",
    "A server makes room for the type that num_bits, type and format name, and reads the bytes as that: FP8 is F8_E4M3, INT8 is "
    "I8, and what is packed is I32 (U8 for two FP4) under the name weight_packed. Asked of compressed-tensors, as are all rules "
    "about schemes.",
    _SCHEMES + ": num_bits, type, format",
    "fetch config.json and the weights from one revision, or quantize again",
)
CONFIG_SCALE_SHAPE = Rule(
    "model-config-scale-shape",
    "its shape is not that of its weight and the strategy in quantization_config",
    "One scale for a tensor, a row, a group of columns or a block: of another number some weights have no scale, or that of "
    "others. The columns of a packed weight are known as far as its size tells.",
    _SCHEMES + ": strategy, group_size, block_structure",
    "fetch config.json and the weights from one revision, or quantize again",
)
CONFIG_SCALE_TYPE = Rule(
    "model-config-scale-type",
    "it is a scale, and its type is none that scales have",
    "Scales are floating point numbers of 16 bits or more. Those of FP4, and of groups in FP8, may have eight bits, which are "
    "a number in FP8 or an exponent.",
    _SCHEMES + ": scale_dtype",
    "quantize again",
)
CONFIG_IGNORED = Rule(
    "model-config-ignored",
    "it is quantized, and quantization_config says under ignore that it is not",
    "A server reads the codes of an ignored module as its weights, without their scale.",
    _SCHEMES + ": ignore",
    "take the module out of ignore, or fetch config.json and the weights from one revision",
)
CONFIG_LEFT = Rule(
    "model-config-not-quantized",
    "it is not quantized, its like in other layers is, and ignore does not name it",
    "A server expects a quantized weight and its scale for every module that a target names and ignore does not. Programs "
    "differ in how they name modules, so this is told and not refused.",
    _SCHEMES + ": targets, ignore",
    "add the module to ignore, or quantize again",
    Severity.WARNING,
)
CONFIG_FUSED = Rule(
    "model-config-fused",
    "modules that a server makes one are not quantized alike",
    "vLLM loads q_proj, k_proj and v_proj as one module, and gate_proj and up_proj as another, and refuses one whose parts "
    "differ. transformers loads it, so this is told and not refused.",
    "vLLM, compressed_tensors/utils.py: should_ignore_layer",
    "quantize again, with all of them under ignore or none",
    Severity.WARNING,
)
CONFIG_EMBEDDED = Rule(
    "model-config-embedding-quantized",
    "the embedding is quantized, and quantization_config has no target for it",
    "The target Linear is for linear modules alone. A server reads the codes of another module as its weights, or stops at the "
    "scale that it has no place for. A program that goes by the tensors works, so this is told and not refused.",
    _SCHEMES + ": targets",
    "quantize again, with the embedding under ignore",
    Severity.WARNING,
)
CONFIG_DTYPE = Rule(
    "model-config-dtype",
    "most of its weights are of another type than config.json says",
    "Loaders convert the weights to the dtype (torch_dtype) of config.json: from BF16 to F32 the model takes twice the memory, "
    "and from F32 to F16 large values become infinite. Nothing fails, so this is told and not refused. Asked of models that "
    "are not quantized.",
    "transformers, PretrainedConfig.dtype",
    "set dtype to that of the weights",
    Severity.WARNING,
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
ADAPTER_ALONE = Rule(
    "model-adapter-alone",
    "there is an adapter, and no adapter_config.json",
    "peft finds an adapter by adapter_config.json alone; the weights do not say how they change which model.",
    "peft, PeftConfig.from_pretrained",
    "fetch adapter_config.json from where the adapter was trained",
    Severity.WARNING,
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
