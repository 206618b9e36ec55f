"""From an archive to its decisions, resumable."""
