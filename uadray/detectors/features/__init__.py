"""What of a tile is compared: maps of frozen networks, of trained encoders, nuclei."""
