"""What an endpoint may be configured with; the file around it is tested in `test_deployment_file`."""

from pathlib import Path

import pytest

from uadray.config import load_config
from uadray.errors import InputError
from uadray.serving.config import ServeConfig

GOOD = "out: o\nbundles: {main: b, second: c}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_tile_per_request: 3", r"max_tile_per_request: no such field; did you mean max_tiles_per_request\?"),
        ("encoder: {replica: 3}", r"encoder.replica: no such field; did you mean replicas\?"),
        ("encoder: {replicas: 3, max_replicas: 2}", "replicas 3 to 2: one at least must be possible, and no fewer"),
        ("encoder: {replicas: 0}", "replicas 0 to 0"),
        ("max_pixels_in_flight: 1000", "max_pixels_per_request is more than max_pixels_in_flight"),
        ("max_bytes_in_flight: 2000", "max_body_bytes is more than max_bytes_in_flight"),
        ("max_image_px: 100000", "max_image_px"),
        ("request_timeout_s: 0", "request_timeout_s"),
        ("map_timeout_s: 61", "map_timeout_s is more than request_timeout_s"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(f"{GOOD}{line}\n")
    with pytest.raises(InputError, match=words):
        load_config(ServeConfig, path)


@pytest.mark.parametrize("name", ["../x", "a/b", "''", ".a", "a b", "a" * 65])
def test_a_bundle_is_called_what_a_path_may_have(tmp_path: Path, name: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(f"out: o\nbundles: {{{name}: b}}\n")
    with pytest.raises(InputError, match="bundles"):
        load_config(ServeConfig, path)


def test_the_first_bundle_is_the_default_and_stages_go_by_the_field(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(f"{GOOD}one_replica: false\n")
    config = load_config(ServeConfig, path)
    assert config.default_bundle == "main"
    assert list(config.stages) == ["encoder", "generator", "scorer"]
    assert list(load_config(ServeConfig, path, ["one_replica=true"]).stages) == ["detector"]


def test_a_search_has_nine_tenths_of_a_request_unless_said(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(f"{GOOD}request_timeout_s: 100\n")
    assert load_config(ServeConfig, path).search_timeout_s == 90
    assert load_config(ServeConfig, path, ["map_timeout_s=20"]).search_timeout_s == 20
