"""Networks, one architecture per file, and the frozen backbones that compare images."""
