"""Synthetic anomalies: tiles into which a piece of another tile was interpolated, pasted or blended, and where."""
