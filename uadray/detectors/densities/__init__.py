"""How probable features are, as fitted arrays: neighbours, Gaussians, mixtures."""
