"""The S3 server of the tests: that of the benchmarks."""

from uadray.bench.seaweed import SeaweedServer, free_port, weed_path

__all__ = ["SeaweedServer", "free_port", "weed_path"]
