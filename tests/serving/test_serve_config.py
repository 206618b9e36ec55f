"""What `uadray serve` may be configured with."""

from pathlib import Path

import pytest

from uadray.config import load_config
from uadray.errors import InputError
from uadray.serving.config import ServeConfig


def test_a_typo_names_the_nearest_field(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("bundle: b\nmax_tile_per_request: 3\n")
    with pytest.raises(InputError, match=r"max_tile_per_request: no such field; did you mean max_tiles_per_request\?"):
        load_config(ServeConfig, path)
    path.write_text("bundle: b\nencoder: {replica: 3}\n")
    with pytest.raises(InputError, match=r"encoder.replica: no such field; did you mean replicas\?"):
        load_config(ServeConfig, path)
    path.write_text("bundle: b\nencoder: {replicas: 3, max_replicas: 2}\n")
    with pytest.raises(InputError, match="max_replicas 2 is less than replicas 3"):
        load_config(ServeConfig, path)


def test_the_configuration_we_ship() -> None:
    config = load_config(ServeConfig, Path(__file__).parents[2] / "configs" / "serve.yaml")
    assert config.is_loopback
    assert list(config.stages) == ["detector"]
