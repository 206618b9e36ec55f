"""How good a detector is, beside what is trivial."""
