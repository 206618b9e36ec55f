"""What detectors that model normal tissue as a density share: bounds of the likelihood, and what they consist of."""
