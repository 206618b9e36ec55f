"""Ready detectors that come with uadray: what was fitted, without the backbone that the installation has."""
