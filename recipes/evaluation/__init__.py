"""How good a model is, measured against the one that it was made from."""
