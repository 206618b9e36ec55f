"""Small bundles with random weights, tiles as requests carry them, and one way to ask a server."""

import base64
import http.client
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from uadray.detectors import dpa, fanogan
from uadray.detectors.bundle import write_bundle
from uadray.detectors.catalog import build_networks
from uadray.detectors.pixels import Pixels
from uadray.tiles.spec import TileSpec

TILE_PX = 40


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URI of a bundle by kind of detector; tiles are larger than either network's input."""
    configs = (
        dpa.Config(kind="dpa", input_px=32, width=4, halvings=2),
        fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8),
    )
    folder = tmp_path_factory.mktemp("bundles")
    for config in configs:
        torch.manual_seed(0)
        networks = build_networks(config)
        write_bundle(
            str(folder / config.kind),
            networks,
            name=config.kind,
            detector=config,
            tiles=TileSpec(mpp=1, tile_px=TILE_PX),
        )
    return {config.kind: str(folder / config.kind) for config in configs}


@pytest.fixture(scope="session")
def pixels() -> Pixels:
    """RGB tiles [70, 40, 40, 3]: more than one batch of the detector."""
    coarse = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    tiles = np.stack([cv2.resize(tile, (TILE_PX, TILE_PX)) for tile in coarse])
    tiles.setflags(write=False)  # as arrays from the object store are
    return tiles


@pytest.fixture(scope="session")
def encode() -> Callable[..., str]:
    """RGB -> base64 of a PNG, or of a JPEG."""

    def encoded(tile: Pixels, suffix: str = ".png") -> str:
        data: bytes = cv2.imencode(suffix, np.ascontiguousarray(tile[..., ::-1]))[1].tobytes()
        return base64.b64encode(data).decode()

    return encoded


class Answer(NamedTuple):
    """Status and JSON of an answer."""

    status: int
    body: dict[str, Any]


@pytest.fixture(scope="session")
def ask() -> Callable[..., Answer]:
    """POST a JSON value, or bytes as they are, to `http://127.0.0.1:port/path`; GET where there is no body."""

    def asked(port: int, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request("GET" if body is None else "POST", path, data, headers)
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))
        finally:
            connection.close()

    return asked
