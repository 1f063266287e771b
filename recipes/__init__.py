"""How a model becomes another, and how good it is: quantization recipes and evaluation suites.

Only code under this folder may import torch, transformers, llmcompressor or lm_eval, and only when a stage runs.
"""
