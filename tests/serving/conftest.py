"""Small bundles with random weights, tiles, a way to ask a server, and a server to ask."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import endpoint_parts
import numpy as np
import pytest
import serving_client
import small_screening
import torch

from uadray.detectors import combined, dpa, enlarged_nuclei, fanogan
from uadray.detectors.building import build_networks, build_trainee
from uadray.detectors.bundle import write_bundle
from uadray.detectors.members import read_members
from uadray.tiles.images import Pixels
from uadray.tiles.spec import TileSpec

TILE_PX = 40


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URI of a bundle by kind of detector; tiles are larger than either network's input."""
    configs = (
        dpa.Config(kind="dpa", input_px=32, width=4, halvings=2),
        fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8),
        enlarged_nuclei.Config(kind="enlarged_nuclei", input_px=32, mpp=1),  # makes no picture
    )
    folder = tmp_path_factory.mktemp("bundles")
    for config in configs:
        torch.manual_seed(0)
        networks = build_networks(config)
        if "head" in networks:
            networks["head"].get_buffer("weight").normal_(std=0.01)  # scores of about 1, as trained ones have
        write_bundle(
            str(folder / config.kind),
            networks,
            name=config.kind,
            detector=config,
            tiles=TileSpec(mpp=1, tile_px=TILE_PX),
        )
    alone = {config.kind: str(folder / config.kind) for config in configs}
    return alone | {"combined": _combined([alone["dpa"], alone["fanogan"]], str(folder / "combined"))}


def _combined(members: list[str], uri: str) -> str:
    """The bundle of both as one detector."""
    config = combined.with_members(
        combined.Config(kind="combined", bundles=tuple(members)), [member.detector for member in read_members(members)]
    )
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    x = torch.rand(100, 3, 32, 32) * 2 - 1
    trainee.prepare(x)
    trainee.step(x, 0.0)
    write_bundle(uri, networks, name="combined", detector=config, tiles=TileSpec(mpp=1, tile_px=TILE_PX))
    return uri


@pytest.fixture(scope="session")
def pixels() -> Pixels:
    """RGB tiles [70, 40, 40, 3]: more than one batch of the detector."""
    coarse = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    tiles = np.stack([cv2.resize(tile, (TILE_PX, TILE_PX)) for tile in coarse])
    tiles.setflags(write=False)  # as arrays from the object store are
    return tiles


@pytest.fixture(scope="session")
def encode() -> Callable[..., str]:
    """See `serving_client.encode`."""
    return serving_client.encode


@pytest.fixture(scope="session")
def ask() -> Callable[..., serving_client.Answer]:
    """See `serving_client.ask`."""
    return serving_client.ask


@pytest.fixture(scope="session")
def port(bundles: dict[str, str]) -> Iterator[int]:
    """The port of an endpoint without a token and with low limits."""
    limits = {"max_tiles_per_request": 4, "max_body_bytes": 100_000, "max_image_px": 256}
    with serving_client.serving(bundles["fanogan"], **limits) as number:
        yield number


@pytest.fixture(scope="session")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screening of two bundles in `out`, and the slides and bundles beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("screened")
    bundles = [endpoint_parts.write_calibrated(folder / "bundles", name=f"tiny{seed}", seed=seed) for seed in (0, 1)]
    rows = small_screening.painted_rows(folder / "slides")
    small_screening.screen_here(str(folder / "out"), bundles, rows)
    return folder
