"""The names of the stages, in the order of `packer.pipeline`; apart from it because the command line needs no more."""

STAGES = ("fetch", "validate", "shard", "quantize", "evaluate", "package", "publish")

MODELPACK_SUFFIX = "-modelpack"
"""The ModelPack manifest has a tag of its own: its readers do not understand indexes."""
