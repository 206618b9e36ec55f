"""The S3 server of the benchmarks tells what was put."""

import time

import pytest
from seaweed import SeaweedServer

from uadray.storage import objects


@pytest.mark.s3
def test_puts_are_counted_by_the_server(s3: SeaweedServer) -> None:
    folder = f"s3://{s3.bucket}/counted"
    for name in ("once.json", "twice.json", "twice.json"):
        objects.write_bytes(f"{folder}/decisions/{name}", name.encode())
    assert not objects.put_if_absent(f"{folder}/decisions/once.json", b"refused")
    objects.delete(f"{folder}/decisions/once.json")
    objects.write_bytes(f"{folder}/run.json", b"elsewhere")
    time.sleep(0.01)  # the journal is read up to a millisecond ago
    assert s3.puts("counted/decisions") == {"once.json": 1, "twice.json": 2}
