"""Opening slides and reading tiles at an exact mpp."""
