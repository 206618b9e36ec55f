"""The deployments, and the calls between them."""
