"""Losses, steps, checkpoints, and the Ray Train worker."""
