"""Bytes by URI: folders and S3 behind one face, and copies of slides on the node."""
