"""Opening slides, and reading pixels at an exact mpp."""
