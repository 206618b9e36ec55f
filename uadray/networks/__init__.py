"""Architectures, one paper a file, and the frozen backbones with their weights."""
