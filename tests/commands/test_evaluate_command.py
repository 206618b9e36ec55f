"""`uadray evaluate` on bundles, in a process in which Ray cannot be imported; what does not go together is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from labelled_tiles import SIDE, write_labelled

from uadray.classifiers import densenet
from uadray.classifiers.bundle import write_classifier
from uadray.commands.evaluate import run
from uadray.errors import InputError
from uadray.evaluation.generator_report import Asked, evaluate_generator
from uadray.generators import wgan_gp
from uadray.generators.bundle import write_generator
from uadray.reports.pictures import encode_png
from uadray.tiles.spec import TileSpec

GAN = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8)

SCRIPT = """
import sys
sys.modules["ray"] = None  # any import of it fails, as where it is not installed
from uadray.cli import main
main()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ninety soft tiles of 20 px."""
    folder = tmp_path_factory.mktemp("real") / "normal"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(90):
        soft = cv2.resize(rng.integers(60, 200, size=(4, 4, 3)).astype(np.uint8), (20, 20))
        (folder / f"{n:03d}.png").write_bytes(encode_png(soft))
    return str(folder.parent)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    networks = wgan_gp.networks(GAN, pretrained=False)
    tiles = TileSpec(mpp=1.0, tile_px=20, min_tissue=0.0)
    write_generator(str(folder), networks, name="<toy>", generator=GAN, tiles=tiles, training_data={"label": "normal"})
    return str(folder)


def _run(path: str, **options: Any) -> dict[str, Any]:
    where = {name: options.pop(name, None) for name in ("labels", "outlines", "data", "out")}
    return run(path, **where, options=options)


def test_a_generator_is_judged_without_ray(bundle: str, data: str, tmp_path: Path) -> None:
    arguments = ["--data", data, "--samples", "40", "--draws", "2", "--path-steps", "0", "--out", str(tmp_path)]
    arguments += ["--features", "efficientnet_lite0"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "evaluate", bundle, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    written = json.loads((tmp_path / "generation.json").read_text())
    assert told == written | {"page": str(tmp_path / "generation.html")}
    assert (written["samples"], written["real_tiles"], written["features"]) == (40, 40, "efficientnet_lite0")
    assert "fid" not in written["figures"]
    assert {f"{name}_efficientnet_lite0" for name in ("frechet", "kid", "precision", "recall")} < set(
        written["figures"]
    )
    assert written["perceptual_path_length"] == {"left_out": "it was not asked for"}
    assert written["is_training_data"] is False
    rows = {row["of"]: row["frechet_efficientnet_lite0"] for row in written["scale"]}
    assert rows["other real tiles"] < rows["this generator"]
    page = (tmp_path / "generation.html").read_text()
    assert "&lt;toy&gt;" in page
    assert "no figure here is an FID" in page


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("classifier"))
    small = densenet.Config(kind="densenet121", input_px=16, growth=2, blocks=(1, 1), stem=4)
    tiles = TileSpec(mpp=1.0, tile_px=SIDE, min_tissue=0.0)
    write_classifier(folder, densenet.networks(small, pretrained=False), name="c", classifier=small, tiles=tiles)
    return folder


def test_a_classifier_is_asked(bundle: str, data: str, classifier: str, tmp_path: Path) -> None:
    """About samples and held-out tiles; alone, about these; and about real tiles of one class not at all."""
    held_out = write_labelled(tmp_path / "held", {"normal": 12, "tumor": 10}, seed=1)
    options: dict[str, Any] = {"samples": 16, "draws": 1, "path_steps": 0, "features": "efficientnet_lite0"}
    asked = Asked(**options, classifier=classifier, classifier_data=held_out)
    told = evaluate_generator(bundle, data, asked, out=str(tmp_path))["classifier"]
    assert told["synthetic"]["n"] == 16
    assert told["real"] == _run(classifier, data=held_out)["real"]
    assert "made as normal" in (tmp_path / "generation.html").read_text()
    with pytest.raises(InputError, match="no tile is labelled 'tumor'"):
        evaluate_generator(bundle, data, Asked(**options, classifier=classifier), out=str(tmp_path))
    with pytest.raises(InputError, match="with which --samples does not go"):
        _run(classifier, data=held_out, samples=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "which real tiles to judge it by"),
        ({"data": "d", "labels": "m.csv"}, "with which --labels does not go"),
        ({"data": "d", "device": "tpu"}, "--device tpu: expected cpu or cuda"),
        ({"data": "d", "features": "vgg"}, "--features vgg: expected inception or efficientnet_lite0"),
        ({"data": "d", "path_steps": 1}, "a mean needs two"),
        ({"data": "d", "classifier_data": "e"}, "goes with --classifier"),
    ],
)
def test_what_a_generator_is_not_judged_by(bundle: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _run(bundle, **options)


def test_scores_take_none_of_a_generators_options(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no bundle, with which --data, --path-steps does not go"):
        _run(str(tmp_path / "scores.parquet"), data="d", path_steps=0)


def test_a_truncation_without_styles_is_refused(bundle: str, data: str) -> None:
    with pytest.raises(InputError, match="no latent space W"):
        evaluate_generator(bundle, data, Asked(truncation=0.5, samples=16))
