"""The divergence of a model from its baseline as one would write it: `python -m bench.divergence BASELINE CANDIDATE`.

Both models are in memory; as many passages of packer's own text as its suite begins with, of as many tokens. Prints the
mean in nats.
"""

from __future__ import annotations

import sys

PASSAGES, TOKENS = 32, 256


def main(baseline: str, candidate: str) -> None:
    """Print it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from recipes.evaluation.suite import shipped

    data = next(suite.data for suite in shipped() if suite.name == "fidelity")
    assert data
    tokens = AutoTokenizer.from_pretrained(baseline)(data.read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    models = [AutoModelForCausalLM.from_pretrained(path, dtype="auto") for path in (baseline, candidate)]
    total = 0.0
    with torch.inference_mode():
        for at in range(PASSAGES):
            passage = tokens[at * TOKENS : (at + 1) * TOKENS][None]
            before, after = (model(passage).logits[0, :-1].double().log_softmax(-1) for model in models)
            total += float((before.exp() * (before - after)).sum(-1).mean())
    print(f"divergence {total / PASSAGES:.4f} nats")


if __name__ == "__main__":
    main(*sys.argv[1:])
