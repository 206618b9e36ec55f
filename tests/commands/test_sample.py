"""`uadray sample`: what is written is what the generator draws, and what it cannot do is refused before it writes."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from uadray.bench.slides import write_tiny_bundle
from uadray.cli import app
from uadray.commands import card, sample
from uadray.commands.sample import draw
from uadray.detectors import deep_geo
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import write_bundle
from uadray.detectors.pixels import to_pixels
from uadray.errors import InputError
from uadray.generators import dcgan
from uadray.generators.bundle import read_generator, write_generator
from uadray.generators.pictures import drawn
from uadray.tiles.spec import TileSpec

GAN = dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=8)
TILES = TileSpec(mpp=2.0, tile_px=32)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("generator"))
    networks = dcgan.networks(GAN, pretrained=False)
    write_generator(
        folder, networks, name="toy", generator=GAN, tiles=TILES, metrics={"generator": 0.5},
        training_data={"label": "normal", "n_tiles": 7}, licences={"other": "MIT"},
    )  # fmt: skip
    return folder


def _nothing(*_: Any) -> None:
    """Shows no progress."""


def _read(path: Path) -> np.ndarray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))


def test_tiles_grid_and_strip(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbered PNG without loss, those of the seed, and the first of them in the grid."""
    monkeypatch.setattr(sample, "progress", lambda title: nullcontext(_nothing))  # it would divert pytest's output
    grid, out = tmp_path / "grid.png", tmp_path / "normal"
    options = ["--n", "70", "--seed", "5", "--grid", str(grid), "--out", str(out), "--interpolate", "6"]
    done = CliRunner().invoke(app, ["sample", uri, *options], catch_exceptions=False)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "bundle": read_generator(uri).id, "kind": "dcgan", "n": 70, "seed": 5, "truncation": 1.0, "out": str(out),
        "grid": str(grid), "interpolation": str(tmp_path / "grid_interpolation.png"),
    }  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == [f"{i:06d}.png" for i in range(70)]
    torch.manual_seed(0)
    expected = np.concatenate([to_pixels(x) for x in drawn(GAN, dcgan.networks(GAN, pretrained=False), 70, seed=5)])
    tiles = np.stack([_read(path) for path in sorted(out.iterdir())])
    assert (tiles == expected).all()
    assert (tiles[0] != tiles[1]).any()
    picture = _read(grid)
    assert picture.shape == (8 * 20 - 4, 8 * 20 - 4, 3)
    for i in (0, 9, 63):
        y, x = i // 8 * 20, i % 8 * 20
        assert (picture[y : y + 16, x : x + 16] == tiles[i]).all()
    strip = _read(tmp_path / "grid_interpolation.png")
    assert strip.shape == (4 * 20 - 4, 6 * 20 - 4, 3)
    assert (np.abs(strip[:16, :16].astype(int) - tiles[0]) <= 1).all()
    assert (np.abs(strip[20:36, :16].astype(int) - tiles[1]) <= 1).all()


def test_an_f_anogan_is_asked_for_its_generator(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(str(tmp_path / "bundle"))
    told = draw(str(tmp_path / "bundle"), n=3, out=str(tmp_path / "tiles"), tick=_nothing)
    assert (told["bundle"], told["kind"], told["grid"]) == (bundle.id, "wgan_gp", None)
    side = bundle.detector.input_px
    assert [_read(path).shape for path in (tmp_path / "tiles").iterdir()] == [(side, side, 3)] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "--n 0: draw 1 to"),
        ({"n": 10**7}, "--n 10000000: draw 1 to"),
        ({"out": None}, "give --grid FILE.png, --out DIR, or both"),
        ({"grid": "grid.jpg"}, "a grid is a file .png"),
        ({"interpolate": 4}, "--interpolate 4: give --grid"),
        ({"interpolate": 1, "grid": "g.png"}, "2 to 64 steps"),
        ({"device": "tpu"}, "expected cpu or cuda"),
        ({"truncation": 0.7}, "a dcgan has no latent space W"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        draw(uri, **{"n": 2, "out": "tiles", "tick": _nothing} | options)
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_not_mixed_with_others(uri: str, tmp_path: Path) -> None:
    draw(uri, n=2, out=str(tmp_path), tick=_nothing)
    with pytest.raises(InputError, match="already holds pictures"):
        draw(uri, n=1, out=str(tmp_path), tick=_nothing)


def test_a_detector_draws_nothing(tmp_path: Path) -> None:
    detector = deep_geo.Config(kind="deep_geo", input_px=16, depth=10, widen=1)
    write_bundle(str(tmp_path), build_networks(detector), name="d", detector=detector, tiles=TILES)
    with pytest.raises(InputError, match=r"is a detector \(deep_geo\), which draws nothing"):
        draw(str(tmp_path), n=1, out=str(tmp_path / "tiles"), tick=_nothing)


def test_the_card_of_a_generator(uri: str, tmp_path: Path) -> None:
    values, text = card.run(uri, out=str(tmp_path / "card.html"))
    bundle = read_generator(uri)
    assert values == {
        "bundle": bundle.id, "name": "toy", "is_calibrated": False, "card": str(tmp_path / "card.html"),
    }  # fmt: skip
    count = sum(p.numel() for p in dcgan.networks(GAN, pretrained=False)["generator"].parameters())
    for part in ("Not for diagnosis", bundle.weights_sha256, f"{count:,}", "arxiv.org/abs/1511.06434", "32 px at 2"):
        assert part in text
    assert "| training: generator | 0.5 |" in text
    assert "| tiles | 7 |" in text
    assert "| licence of other | MIT |" in text
    assert "Before you use it" in (tmp_path / "card.html").read_text()
