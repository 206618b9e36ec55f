"""One file a dashboard; each makes its JSON."""
