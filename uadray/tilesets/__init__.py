"""Tiles kept as files: folders, zips and Parquet shards."""
