"""What the values of a model must hold to: those of scales, and with `--deep` all."""

from __future__ import annotations

from formats.findings import Rule, Severity

_OWN = "a rule of packer"
_AGAIN = "fetch the file again and compare its digest with that of its source; if it is the same, the training or the quantization was broken"

NAN = Rule(
    "values-nan",
    "it holds NaN",
    "One NaN in a weight makes every answer NaN that passes through it. It comes from a training that diverged, a "
    "quantization that divided by zero, or bytes that were damaged.",
    "IEEE 754; " + _OWN,
    _AGAIN,
)
INF = Rule(
    "values-inf",
    "it holds Inf",
    "An infinite weight makes activations infinite, and their differences NaN. Most often a conversion to FP16 met a "
    "value beyond 65504.",
    "IEEE 754; " + _OWN,
    _AGAIN,
)
INF_CONSTANT = Rule(
    "values-inf-constant",
    "it holds Inf",
    "ONNX keeps constants among the weights, and minus infinity is a usual mask of attention. In a weight it would be an "
    "error, and nothing tells the two apart.",
    "IEEE 754; ONNX, docs/IR.md: initializers",
    "look whether the tensor is a mask; if it is a weight, export the model again",
    Severity.WARNING,
)
ZERO = Rule(
    "values-all-zero",
    "all of it is zero",
    "A weight of zeros says that nothing was learned or nothing was written: a download into a file that was made "
    "large beforehand looks so. Not told is what a good model may have as zeros: biases and lora_B, which begin at zero, "
    "zero points, the token types of a RoBERTa, integers that are no codes of weights, and in ONNX, which keeps a "
    "program's constants among the weights, vectors and tensors of less than 4096 elements.",
    _OWN,
    "compare the tensor with that of its source",
    Severity.WARNING,
)
SCALE = Rule(
    "values-scale-sign",
    "it is a scale and holds negative values",
    "The scale of a quantized weight is a positive factor. Kernels that take its logarithm or divide by it give NaN or "
    "turned signs. Tensors named scales are left out: those of MLX have either sign, and work.",
    "compressed-tensors: weight_scale, input_scale; DeepSeek FP8: weight_scale_inv; MLX: affine_quantize",
    "quantize the model again",
)
SCALE_SIZE = Rule(
    "values-scale-size",
    "it is a scale and holds zeros, or values that cannot be right",
    "A weight whose scale is zero is zero whatever was quantized, and a scale below 1e-12 or above 1e6 belongs to no weights "
    "that a network has. A calibration that saw only zeros leaves such scales. Nor is one right "
    "with which a weight in FP8 or INT8 may be beyond 65504, the largest number of FP16. Nothing is refused, because "
    "bitsandbytes writes a zero for a block of zeros. Scales in FP8 are left out: NVFP4 rounds the smallest of its blocks to zero.",
    "compressed-tensors: weight_scale, input_scale; " + _OWN,
    "quantize the model again, with calibration data that reaches the layer",
    Severity.WARNING,
)
SCALE_ZERO = Rule(
    "values-scale-zero",
    "it is the scale of quantized weights and holds zeros",
    "compressed-tensors writes a small number for a row, a group or a block of zeros, and never a zero. All weights that such "
    "a scale is for are lost, whatever was quantized.",
    "compressed-tensors, calculate_qparams",
    "fetch the file again and compare its digest with that of its source, or quantize again",
)
SCALE_OUTLIER = Rule(
    "values-scale-outlier",
    "it is a scale and hundreds of times larger than its like in other layers",
    "In a network that works, the largest weights of like modules are within a factor of ten, and a scale follows the largest "
    "weight that it is for. A scale that is 300 times the usual one (the median, over four modules at least, of the mean) makes "
    "its weights outweigh all others; so does one of 100 times whose weights reach beyond 10000. Scales of FP4, which have a "
    "scale themselves, are left out.",
    _OWN,
    "compare the tensor with that of its source; quantize again",
)
SCALE_APART = Rule(
    "values-scale-apart",
    "it is a scale and far from its like in other layers",
    "Told of scales of weights that are 100 times the usual one or whose largest is less than a 300th of it, and of scales of "
    "activations that are 300 times the usual one: a few activations that are so large are known of good models. Where there "
    "are less than four like modules, a scale that is 1000 times that of all others is told.",
    _OWN,
    "compare the tensor with that of its source; quantize it again",
    Severity.WARNING,
)
MAGNITUDE = Rule(
    "values-magnitude",
    "it holds values beyond 65504",
    "65504 is the largest number of FP16, which many servers compute in: there the value becomes infinite. Weights of "
    "networks that work are a thousand times smaller.",
    "IEEE 754-2008, binary16; " + _OWN,
    "compare the tensor with that of its source; serve it in BF16 or FP32 if it is right",
    Severity.WARNING,
)
UNMEASURED = Rule(
    "values-not-measured",
    "its values could not be read",
    "The library that knows the type cannot decode it, so nothing is said about its values. Types that only computations "
    "use (Q8_1, Q8_K), texts, types of two or six bits, and quantized types in big-endian files are among them.",
    "gguf-py, quants.dequantize",
    "nothing, if the type is meant",
    Severity.WARNING,
)
