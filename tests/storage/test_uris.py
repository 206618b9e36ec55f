"""URIs: what they are relative to, and which are refused."""

from pathlib import Path

import pytest

from uadray.errors import InputError
from uadray.storage import objects


def test_uris() -> None:
    assert objects.resolve("a.svs", "/data") == "/data/a.svs"
    assert objects.resolve("../b.svs", "/data/m") == "/data/b.svs"
    assert objects.resolve("file:///data/a%20b.svs", "s3://bucket/m") == "/data/a b.svs"
    assert objects.resolve("a.svs", "s3://bucket") == "s3://bucket/a.svs"
    assert objects.resolve("s3://other/a.svs", "/data") == "s3://other/a.svs"
    assert objects.resolve("a.svs", ".") == str(Path.cwd() / "a.svs")


@pytest.mark.parametrize(
    ("uri", "base", "message"),
    [
        ("http://host/a.svs", "/data", "http:// is not supported"),
        ("ftp://host/a.svs", "s3://bucket/m", "ftp:// is not supported"),
        ("/etc/passwd", "s3://bucket/m", "absolute path in a manifest"),
        ("../../a.svs", "s3://bucket/m", "leads out of the bucket"),
        ("file://host/a.svs", "/data", "expected a local path"),
        ("", "/data", "expected a path"),
        ("a\0b", "/data", "expected a path"),
    ],
)
def test_uris_that_are_refused(uri: str, base: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        objects.resolve(uri, base)
