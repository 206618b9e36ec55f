"""TIFF, SVS and OME-TIFF, read by byte ranges from where they lie."""
