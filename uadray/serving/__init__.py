"""Online scoring on Ray Serve."""
