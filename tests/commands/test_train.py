"""What `uadray train` refuses before it begins, and what it leaves behind while it runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uadray.commands.run_log import RunLog, progress_text
from uadray.commands.train import check
from uadray.config import parse_config
from uadray.errors import InputError
from uadray.generators import wgan_gp
from uadray.generators.bundle import write_generator
from uadray.reports.pictures import encode_png
from uadray.tiles.spec import TileSpec
from uadray.training.config import TrainConfig

RUN: dict[str, Any] = {
    "name": "r", "detector": {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8},
    "tiles": {"mpp": 1.0, "tile_px": 32}, "epochs": 2, "steps_per_epoch": 5,
}  # fmt: skip

OLD_YAML = """
name: r
detector: {kind: fanogan, input_px: 16, width: 4, latent_dim: 8, critic_steps: 5, penalty: 10.0, kappa: 1.0,
           encoder_fraction: 0.4, gan_learning_rate: 0.0001, encoder_learning_rate: 0.0001}
tiles: {mpp: 1.0, tile_px: 32}
epochs: 2
steps_per_epoch: 5
"""
"""`config.yaml` of a training that began before detectors could take a generator."""


def _config(**changes: Any) -> TrainConfig:
    return parse_config(TrainConfig, RUN | changes, source="test")


@pytest.fixture
def data(tmp_path: Path) -> str:
    folder = tmp_path / "tiles" / "normal"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))
    return str(folder.parent)


def test_a_training_of_before_goes_on(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text(OLD_YAML)
    check(_config(), data=data, out=str(out), resume=True)
    with pytest.raises(InputError, match="already holds a training; use --resume"):
        check(_config(), data=data, out=str(out))
    with pytest.raises(InputError, match=r"another configuration \(detector, epochs differ\)"):
        check(_config(epochs=3, detector=RUN["detector"] | {"width": 8}), data=data, out=str(out), resume=True)


def test_a_generator_of_another_resolution_is_refused(data: str, tmp_path: Path) -> None:
    generator = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8)
    uri = str(tmp_path / "generator")
    networks = wgan_gp.networks(generator, pretrained=False)
    write_generator(uri, networks, name="g", generator=generator, tiles=TileSpec(mpp=0.5, tile_px=32))
    config = _config(detector=RUN["detector"] | {"generator": uri})
    with pytest.raises(InputError, match=r"was trained at 0\.5 um/px, not at 1\.0; set tiles\.mpp to 0\.5"):
        check(config, data=data, out=str(tmp_path / "out"))
    with pytest.raises(InputError, match="is no bundle"):
        check(_config(detector=RUN["detector"] | {"generator": str(tmp_path)}), data=data, out=str(tmp_path / "out"))


def test_an_epoch_has_one_line_whatever_was_killed(tmp_path: Path) -> None:
    old = [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.9}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    log = RunLog(str(tmp_path), _config(), None, keep=True)
    log.take([{"epoch": 1, "step": 10, "loss": 0.8, "phase": "gan", "end_of_epoch": True}], [])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["loss"]) for line in lines] == [(0, 1.0), (1, 0.8)]
    assert "end_of_epoch" not in lines[1]


def _written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_validation_joins_the_line_of_its_epoch(tmp_path: Path) -> None:
    """Whenever it comes; it stays when the line is told again, and goes when the epoch is trained again."""
    log = RunLog(str(tmp_path), _config(), None, keep=False)
    lines = [{"epoch": epoch, "step": 5 * epoch + 5, "loss": 1 / (epoch + 3), "phase": "gan"} for epoch in range(3)]
    log.take([{"epoch": 0, "step": 5, "validated": True, "frechet": 9.0}], [])  # before its line
    log.take([line | {"end_of_epoch": True} for line in lines[:2]], [])
    log.take([{"epoch": 1, "step": 10, "validated": True, "frechet": 7.5}, lines[2] | {"end_of_epoch": True}], [])
    log.take([{"epoch": 1, "step": 10, "validated": True, "kid": 0.5}], [])
    expected = [
        lines[0] | {"frechet": 9.0, "validated": ["frechet"]},
        lines[1] | {"frechet": 7.5, "kid": 0.5, "validated": ["frechet", "kid"]},
        lines[2],
    ]
    assert _written(tmp_path) == expected
    again = RunLog(str(tmp_path), _config(), None, keep=True)
    again.take([line | {"end_of_epoch": True} for line in lines[:2]], [])  # of the checkpoint
    again.take([{"epoch": 2, "step": 15, "validated": True, "frechet": 7.0}], [])
    expected[2] |= {"frechet": 7.0, "validated": ["frechet"]}
    assert _written(tmp_path) == expected
    again.take([lines[1] | {"loss": 0.125, "end_of_epoch": True}], [])  # trained again, differently
    assert _written(tmp_path) == [expected[0], lines[1] | {"loss": 0.125}]
    page = (tmp_path / "samples.html").read_text()
    assert page.count("<svg") == 2  # the figure and the loss


def test_progress_keeps_the_losses_of_the_last_epoch(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    log = RunLog(
        str(tmp_path), _config(), lambda done, total, line: told.append((done, total, progress_text(line))), keep=False
    )
    log.take([{"epoch": 0, "step": 0, "phase": "prepare"}], [])
    log.take([{"epoch": 0, "step": 5, "phase": "gan", "loss": 0.5, "end_of_epoch": True}], [])
    log.take([{"epoch": 1, "step": 6, "phase": "encoder"}], [])
    assert told == [(0, 10, "prepare"), (5, 10, "gan: loss 0.5"), (6, 10, "encoder: loss 0.5")]


@pytest.mark.parametrize("has_picture", [True, False])
def test_the_page_says_whether_there_are_reconstructions(tmp_path: Path, has_picture: bool) -> None:
    x = np.zeros((3, 16, 16, 3), np.uint8)
    log = RunLog(str(tmp_path), _config(), None, keep=False)
    log.take([], [(0, x, x if has_picture else None)])
    log.write_page()
    assert ("reconstructions" in (tmp_path / "samples.html").read_text()) == has_picture
