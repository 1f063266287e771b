"""Kubernetes and KServe documents for a published model: values in, plain documents out."""
