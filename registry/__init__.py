"""Bytes and their names: content that is addressed by digest, and the stores that hold it.

This folder knows nothing of tensors or models. A `Blob` is any run of bytes with a `Descriptor`;
a `Store` is where blobs, manifests and tags live: a folder (`Layout`) or a registry (`Remote`).
"""
