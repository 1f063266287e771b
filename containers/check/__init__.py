"""What other clients make of an artifact: `docs/check.md` as code."""
