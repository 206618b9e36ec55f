"""What detectors share that look for the picture of a generator that is closest to a tile (GAN inversion)."""
