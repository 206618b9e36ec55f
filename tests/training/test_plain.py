"""`uadray train --without-ray`, in processes in which Ray cannot be imported: whole, killed and resumed, refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uadray.config import parse_config
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.errors import InputError
from uadray.generators.bundle import read_generator
from uadray.phantoms.pyramid import write_pyramid
from uadray.reports.pictures import encode_png
from uadray.screening.bundles import calibrated_bundle
from uadray.slides.identity import is_seen
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.training.config import TrainConfig
from uadray.training.plain import check_here, epochs_kept

N_TILES, BATCH, STEPS = 400, 8, 10
GAN = {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2, "encoder_fraction": 0.5}
RUN: dict[str, Any] = {
    "name": "plain", "detector": GAN, "tiles": {"mpp": 1.0, "tile_px": 16, "min_tissue": 0.0}, "epochs": 4,
    "steps_per_epoch": STEPS, "batch_size": BATCH, "shuffle_tiles": 64, "threads": 1,
}  # fmt: skip

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # any import of it fails, as where it is not installed
"""

RECORDING = """
import json, os, signal
from uadray.detectors import fanogan
out, kill_at = sys.argv.pop(1), int(sys.argv.pop(1))
steps, make = [0], fanogan.Trainee.step
def step(self, x, progress):
    pixels = ((x[:, :, 0, 0] + 1) * 127.5).round().int()
    with open(out, "a") as file:
        file.write(json.dumps((pixels[:, 0] + 256 * pixels[:, 1]).tolist()) + "\\n")
    steps[0] += 1
    if steps[0] == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(self, x, progress)
fanogan.Trainee.step = step
"""

COMMAND = """
from uadray.cli import main
main()
"""


def _uadray(*arguments: str, prelude: str = "", has_ray: bool = False) -> subprocess.CompletedProcess[str]:
    script = ("import sys" if has_ray else WITHOUT_RAY) + prelude + COMMAND
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def tile_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tiles that have the colour of their number."""
    folder = tmp_path_factory.mktemp("tiles") / "normal"
    folder.mkdir()
    for n in range(N_TILES):
        (folder / f"{n:03d}.png").write_bytes(encode_png(np.full((16, 16, 3), (n % 256, n // 256, 128), np.uint8)))
    return str(folder.parent)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "plain.yaml"
    path.write_text(json.dumps(RUN))
    return str(path)


def _seen(path: Path) -> list[list[int]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _figures(out: Path) -> list[dict[str, Any]]:
    pace = {"seconds", "waiting", "tiles_per_second"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in pace} for line in lines]


@pytest.fixture(scope="module")
def whole(tile_set: str, config_file: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """A training that nobody stopped: its folder, and the tiles of every step."""
    folder = tmp_path_factory.mktemp("whole")
    done = _uadray(
        str(folder / "seen"), "0", "train", config_file, "--data", tile_set, "--out", str(folder / "out"),
        "--without-ray", prelude=RECORDING,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out", _seen(folder / "seen")


def test_it_trains_where_ray_is_not_installed(whole: tuple[Path, list[list[int]]]) -> None:
    out, seen = whole
    assert len(seen) == 4 * STEPS
    figures = _figures(out)
    assert [(line["epoch"], line["step"], line["phase"]) for line in figures] == [
        (0, 10, "gan"), (1, 20, "gan"), (2, 30, "encoder"), (3, 40, "encoder"),
    ]  # fmt: skip
    bundle = read_bundle(str(out))
    assert bundle.training_data["n_tiles"] == N_TILES
    scored = load_detector(str(out))(np.zeros((2, 16, 16, 3), np.uint8))
    assert np.isfinite(scored.score).all()
    page = (out / "samples.html").read_text()
    assert page.index("epoch_0003") < page.index("epoch_0000")
    assert "over their reconstructions" in page
    assert len(list((out / "samples").glob("*.jpg"))) == 4
    assert epochs_kept(str(out)) == [3, 4]


def test_a_training_that_was_killed_within_a_pass_goes_on_as_if_nothing_had_happened(
    whole: tuple[Path, list[list[int]]], tile_set: str, config_file: str, tmp_path: Path
) -> None:
    """Killed in its second epoch: no tile of the first comes again in that pass, and every figure is the same."""
    out, seen = whole
    command = ("train", config_file, "--data", tile_set, "--out", str(tmp_path / "out"), "--without-ray")
    killed = _uadray(str(tmp_path / "first"), str(STEPS + 5), *command, prelude=RECORDING)
    assert killed.returncode < 0
    assert epochs_kept(str(tmp_path / "out")) == [1]
    refused = _uadray(*command)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    resumed = _uadray(str(tmp_path / "second"), "0", *command, "--resume", prelude=RECORDING)
    assert resumed.returncode == 0, resumed.stderr
    before, after = _seen(tmp_path / "first")[:STEPS], _seen(tmp_path / "second")
    assert before + after == seen
    rest_of_pass = (N_TILES - 256 - STEPS * BATCH) // BATCH  # 256 were looked at before the first step
    assert 0 < rest_of_pass < STEPS, "the checkpoint lies within a pass"
    assert not {n for x in before for n in x} & {n for x in after[: rest_of_pass - 64 // BATCH] for n in x}
    assert _figures(tmp_path / "out") == _figures(out)
    assert read_bundle(str(tmp_path / "out")).weights_sha256 == read_bundle(str(out)).weights_sha256


def test_resuming_what_is_finished_writes_the_same_bundle(
    whole: tuple[Path, list[list[int]]], tile_set: str, config_file: str
) -> None:
    out, _ = whole
    before = read_bundle(str(out)).id
    done = _uadray("train", config_file, "--data", tile_set, "--out", str(out), "--without-ray", "--resume")
    assert done.returncode == 0, done.stderr
    assert read_bundle(str(out)).id == before


def test_the_other_host_does_not_go_on(
    whole: tuple[Path, list[list[int]]], tile_set: str, config_file: str, tmp_path: Path
) -> None:
    command = ("train", config_file, "--data", tile_set, "--resume")
    refused = _uadray(*command, "--out", str(whole[0]), has_ray=True)
    assert refused.returncode == 2
    assert "was trained without Ray; go on with --without-ray" in refused.stderr
    (tmp_path / "checkpoints" / "checkpoint_2026-01-01").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint_2026-01-01" / "progress.json").write_text("{}")
    (tmp_path / "config.yaml").write_text((whole[0] / "config.yaml").read_text())
    refused = _uadray(*command, "--out", str(tmp_path), "--without-ray")
    assert refused.returncode == 2
    assert "was trained on Ray; go on without --without-ray" in refused.stderr


def test_a_generator_is_trained_alone_and_a_detector_takes_it(tile_set: str, tmp_path: Path, config_file: str) -> None:
    """On slides, whose marks the detector's bundle has too, though it was trained on others."""
    rows = []
    for i in range(4):
        image = np.array([210, 110, 180], np.uint8) - np.random.default_rng(i).integers(0, 80, (256, 256, 3), np.uint8)
        write_pyramid(tmp_path / f"s{i}.tif", image, mpp=1.0, tile_px=128)
        rows.append(SlideRow(f"s{i}", str(tmp_path / f"s{i}.tif")))
    write_manifest(rows[:2], str(tmp_path / "gan.csv"))
    write_manifest(rows[2:], str(tmp_path / "encoder.csv"))
    sizes = {"input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2}
    tiles = {"mpp": 1.0, "tile_px": 16, "min_tissue": 0.0, "quality": None}
    short = RUN | {"epochs": 1, "tiles": tiles}
    del short["detector"]
    (tmp_path / "gan.yaml").write_text(json.dumps(short | {"generator": {"kind": "wgan_gp"} | sizes}))
    uri = str(tmp_path / "gan")
    done = _uadray("train", str(tmp_path / "gan.yaml"), "--data", str(tmp_path / "gan.csv"), "--out", uri,
                   "--without-ray")  # fmt: skip
    assert done.returncode == 0, done.stderr
    generator = read_generator(uri)
    assert "wasserstein" in generator.metrics
    assert "over generated ones" in (Path(uri) / "samples.html").read_text()
    detector = {"kind": "fanogan", "generator": uri} | sizes
    (tmp_path / "fanogan.yaml").write_text(json.dumps(short | {"detector": detector}))
    out = str(tmp_path / "fanogan")
    command = ("train", str(tmp_path / "fanogan.yaml"), "--data", str(tmp_path / "encoder.csv"), "--out", out)
    done = _uadray(*command, "--without-ray")
    assert done.returncode == 0, done.stderr
    bundle = read_bundle(out)
    assert set(bundle.metrics) & {"wasserstein", "izi_f"} == {"izi_f"}
    assert bundle.training_data["generator"] == generator.id
    assert uri not in (Path(out) / "bundle.json").read_text()
    assert all(is_seen(row, bundle.trained_on) for row in rows)
    assert [is_seen(row, generator.trained_on) for row in rows] == [True, True, False, False]
    refused = _uadray(*command, "--without-ray", "--set", "tiles.mpp=2.0", "--out", str(tmp_path / "other"))
    assert refused.returncode == 2
    assert "was trained at 1.0 um/px" in refused.stderr
    laptop = str(Path(__file__).parents[2] / "configs" / "serve" / "laptop.yaml")
    for command in (
        ("score", uri, "--data", tile_set, "--out", str(tmp_path / "f.parquet")),
        ("serve", laptop, "--insecure", "--set", f"bundles.main={uri}"),
    ):
        refused = _uadray(*command, has_ray=True)
        assert refused.returncode == 2, (command, refused.stderr)
        assert "is a generator, which scores nothing" in refused.stderr
    for opened in (read_bundle, calibrated_bundle):  # as `calibrate` and `screen` open theirs
        with pytest.raises(InputError, match="is a generator, which scores nothing"):
            opened(uri)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"workers": 2}, "workers 2: without Ray there is one"), ({"use_gpu": True}, "torch sees no GPU here")],
)
def test_what_one_process_cannot_do_is_refused(changes: dict[str, Any], words: str) -> None:
    if "use_gpu" in changes and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=words):
        check_here(parse_config(TrainConfig, RUN | changes, source="test"))
