"""What an endpoint may be configured with."""

import pytest

from uadray.config import parse_config
from uadray.errors import InputError
from uadray.serving.app import resolved
from uadray.serving.config import ServeConfig

LEAST = {"out": "o", "bundles": {"a": "b"}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tile_per_request": 3}, r"max_tile_per_request: no such field; did you mean max_tiles_per_request\?"),
        ({"encoder": {"replica": 3}}, r"encoder.replica: no such field; did you mean replicas\?"),
        ({"encoder": {"replicas": 3, "max_replicas": 2}}, "replicas 3 to 2"),
        ({"encoder": {"replicas": 0}}, "replicas 0 to 0"),
        ({"max_body_bytes": 2**29}, "max_body_bytes is more than max_bytes_in_flight"),
        ({"max_pixels_per_request": 2**28}, "max_pixels_per_request is more than max_pixels_in_flight"),
    ],
)
def test_what_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(ServeConfig, LEAST | fields, source="test")


def test_paths_no_longer_depend_on_where_a_process_runs() -> None:
    config = parse_config(
        ServeConfig,
        {"out": "out", "bundles": {"a": "b", "c": "s3://d/e"}, "slides": ["slides", "/f"], "tokens": "t.yaml"},
        source="test",
    )
    there = resolved(config, "/here")
    assert there.out == "/here/out"
    assert there.bundles == {"a": "/here/b", "c": "s3://d/e"}
    assert there.slides == ("/here/slides", "/f")
    assert there.tokens == "/here/t.yaml"
    assert resolved(there, "/elsewhere") == there
