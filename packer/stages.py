"""The names of the stages, in the order of `packer.pipeline`; apart from it because the command line needs no more."""

STAGES = ("fetch", "validate", "shard", "package", "publish")
