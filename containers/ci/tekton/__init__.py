"""Tekton: Tasks and a Pipeline that build the models of a build file, and what starts them.

tekton.dev/v1 (Pipelines 1.0 and later; `matrix` wants `enable-api-fields: beta`, which is the default) and
triggers.tekton.dev/v1beta1. Documents are plain values; nothing here reads or writes anything.
"""
