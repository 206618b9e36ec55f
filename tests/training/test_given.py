"""A combination is trained from its members' bundles: of their tiles, on slides that are new to them, and says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from uadray.cluster.workers import StreamConfig
from uadray.commands.calibrate import calibrate
from uadray.commands.calibrate import check as check_calibration
from uadray.commands.score import score
from uadray.commands.train import train
from uadray.config import parse_config
from uadray.decisions.aggregation import AggregationConfig
from uadray.detectors import combined
from uadray.detectors.bundle import Bundle, load_detector, read_bundle
from uadray.errors import InputError
from uadray.phantoms.pyramid import write_pyramid
from uadray.reports.pictures import encode_png
from uadray.screening import job
from uadray.screening.bundles import calibrated_bundle
from uadray.slides.identity import is_patient_seen, is_seen
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.slides.opening import open_slide
from uadray.training.config import TrainConfig
from uadray.training.given import completed

pytestmark = [
    pytest.mark.usefixtures("torch_alone"),
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning"),  # Ray, of its own options
]

SHORT: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 20, "batch_size": 8, "shuffle_tiles": 64, "threads": 1}
TILES = {"mpp": 1.0, "tile_px": 24, "min_tissue": 0.0, "quality": None}
MEMBERS = {
    "gan": {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2},
    "dpa": {"kind": "dpa", "input_px": 24, "width": 4, "halvings": 2, "layers": ["block0"]},
}


def _config(detector: dict[str, Any], **fields: Any) -> TrainConfig:
    return parse_config(
        TrainConfig, {"name": detector["kind"], "detector": detector, "tiles": TILES} | SHORT | fields, source="test"
    )


def _image(name: str, number: int) -> np.ndarray:
    rng = np.random.default_rng([ord(name[0]), number])
    return np.array([210, 110, 180], np.uint8) - rng.integers(0, 80, (240, 240, 3), np.uint8)


def _slides(folder: Path, name: str, n: int) -> tuple[str, list[SlideRow]]:
    rows = []
    for i in range(n):
        write_pyramid(folder / f"{name}{i}.tif", _image(name, i), mpp=1.0, tile_px=128)
        rows.append(SlideRow(f"{name}{i}", str(folder / f"{name}{i}.tif"), patient_id=f"p-{name}{i}"))
    write_manifest(rows, str(folder / f"{name}.csv"))
    return str(folder / f"{name}.csv"), rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members that were trained on slides of their own, and two sets of slides that neither has seen."""
    folder = tmp_path_factory.mktemp("given")
    for name, detector in MEMBERS.items():
        data, _ = _slides(folder, name, 3)
        train(_config(detector), data=data, out=str(folder / name), without_ray=True)
    for name in ("held", "calib"):
        _slides(folder, name, 4)
    return folder


def _detector(folder: Path, **fields: Any) -> dict[str, Any]:
    return {"kind": "combined", "bundles": [str(folder / name) for name in MEMBERS]} | fields


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    config = _config(_detector(folder), tiles={"mpp": 1.0, "tile_px": 24})
    made = train(config, data=str(folder / "held.csv"), out=str(folder / "out"), without_ray=True)
    assert isinstance(made, Bundle)
    return made


def _rows(folder: Path, name: str, n: int) -> list[SlideRow]:
    return [SlideRow(f"{name}{i}", str(folder / f"{name}{i}.tif"), patient_id=f"p-{name}{i}") for i in range(n)]


def _counted(bundle: Path) -> float:
    """Tiles whose scores were counted."""
    counts: torch.Tensor = load_file(bundle / "weights.safetensors")["normal.counts"]
    return counts.sum(1)[0].item()


def test_the_bundle_says_all_that_was_seen_and_whose_weights_are_inside(folder: Path, bundle: Bundle) -> None:
    assert isinstance(bundle.detector, combined.Config)
    assert bundle.detector.input_px == 24
    assert bundle.tiles == read_bundle(str(folder / "dpa")).tiles, "what the configuration leaves out is the members'"
    assert bundle.licences == read_bundle(str(folder / "dpa")).licences != {}
    assert _counted(folder / "out") == 160
    assert 0 < bundle.metrics["score0"] != bundle.metrics["score1"]
    ids = [each["id"] for each in bundle.training_data["members"]]
    assert ids == [read_bundle(str(folder / name)).id for name in MEMBERS]
    seen = [*_rows(folder, "gan", 3), *_rows(folder, "dpa", 3), *_rows(folder, "held", 4)]
    assert all(is_seen(row, bundle.trained_on) and is_patient_seen(row, bundle.trained_on) for row in seen)
    assert not any(is_seen(row, bundle.trained_on) for row in _rows(folder, "calib", 4))


def test_no_path_is_inside(folder: Path, bundle: Bundle) -> None:
    text = (folder / "out" / "bundle.json").read_text() + (folder / "out" / "weights.safetensors").read_text("latin1")
    assert str(folder) not in text
    assert not any(row.slide_id in text for name in (*MEMBERS, "held") for row in _rows(folder, name, 3))


def test_calibration_refuses_what_a_member_was_trained_on(folder: Path, bundle: Bundle) -> None:
    for name in (*MEMBERS, "held"):
        with pytest.raises(InputError, match=f"must not have been trained on, .*: {name}1"):
            check_calibration([*_rows(folder, "calib", 4), _rows(folder, name, 2)[1]], bundle, alpha=0.2)
    check_calibration(_rows(folder, "calib", 4), bundle, alpha=0.2)


def test_slides_that_a_member_was_trained_on_are_refused(folder: Path, tmp_path: Path) -> None:
    words = r"none of the bundles in it was trained on .*; member dpa \(dpa\) was trained on .*: dpa0, dpa1"
    with pytest.raises(InputError, match=words):
        train(_config(_detector(folder)), data=str(folder / "dpa.csv"), out=str(tmp_path / "o"), without_ray=True)


def test_the_tile_set_that_a_member_was_trained_on_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiles" / "normal").mkdir(parents=True)
    for n in range(40):
        tile = np.random.default_rng(n).integers(60, 220, (24, 24, 3), dtype=np.uint8)
        (tmp_path / "tiles" / "normal" / f"{n:03d}.png").write_bytes(encode_png(tile))
    data, member = str(tmp_path / "tiles"), str(tmp_path / "member")
    train(_config(MEMBERS["gan"]), data=data, out=member, without_ray=True)
    config = _config({"kind": "combined", "bundles": [member, str(folder / "dpa")]})
    with pytest.raises(InputError, match=r"member fanogan .* was trained on some of these: number and names are"):
        train(config, data=data, out=str(tmp_path / "o"), without_ray=True)
    assert not (tmp_path / "o").exists()


def test_other_tiles_than_the_members_are_refused(folder: Path) -> None:
    config = _config(_detector(folder), tiles={"mpp": 0.5, "tile_px": 24, "quality": None})
    with pytest.raises(InputError, match=r"tiles and those of the members differ: mpp 0\.5 and 1\.0$"):
        completed(config)


def test_a_configuration_is_completed_once(folder: Path) -> None:
    once = completed(_config(_detector(folder, rule="stouffer")))
    assert completed(once) == once
    assert isinstance(once.detector, combined.Config)
    assert [member.kind for member in once.detector.members] == ["fanogan", "dpa"]
    assert completed(_config(MEMBERS["gan"])) == _config(MEMBERS["gan"])
    with pytest.raises(InputError, match=r"detector\.bundles is missing"):
        completed(once.model_copy(update={"detector": once.detector.model_copy(update={"bundles": None})}))


def test_it_goes_on_from_a_checkpoint(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Counts are kept: two epochs and one more give what three give."""
    config = _config(_detector(folder), epochs=2)
    whole = train(config, data=str(folder / "held.csv"), out=str(tmp_path / "whole"), without_ray=True)
    assert _counted(tmp_path / "whole") == 320
    for name in ("bundle.json", "checkpoints/epoch_0002/progress.json"):
        (tmp_path / "whole" / name).unlink()
    again = train(config, data=str(folder / "held.csv"), out=str(tmp_path / "whole"), resume=True, without_ray=True)
    assert again.id == whole.id
    other = _config(_detector(folder, rule="minimum"), epochs=2)
    with pytest.raises(InputError, match=r"started with another configuration \(detector differ\)"):
        train(other, data=str(folder / "held.csv"), out=str(tmp_path / "whole"), resume=True, without_ray=True)


@pytest.mark.ray
@pytest.mark.slow
def test_it_is_trained_calibrated_and_screened_on_ray(ray_cluster: None, folder: Path, tmp_path: Path) -> None:
    """In one pass over each slide; a tile's score is that of plain Python."""
    uri, out = str(tmp_path / "b"), str(tmp_path / "screening")
    made = train(_config(_detector(folder), workers=2), data=str(folder / "held.csv"), out=uri)
    assert isinstance(made, Bundle)
    assert all(is_seen(row, made.trained_on) for row in [*_rows(folder, "dpa", 3), *_rows(folder, "held", 4)])
    assert _counted(Path(uri)) == 160, "of each worker"
    calibrate(
        _rows(folder, "calib", 4), bundle_uri=uri, bundle=made, alpha=0.2, aggregation=AggregationConfig(),
        config=StreamConfig(),
    )  # fmt: skip
    summary = job.screen(_rows(folder, "held", 1), bundles=[calibrated_bundle(uri)], out=out)
    assert summary["scored"] == 1
    tiles = pq.read_table(f"{out}/tiles/held0.parquet")
    x, y = (tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px"))
    with open_slide(str(folder / "held0.tif"), slide_id="held0", mpp=None) as slide:
        pixels = np.stack([slide.read_region(0, column, row, 24, 24) for row, column in zip(y, x, strict=True)])
    expected = load_detector(uri)(pixels).score
    # members round differently in batches of other sizes, and p tells their rounding larger
    np.testing.assert_allclose(tiles["score"].to_numpy(), expected, rtol=1e-4)
    assert "#reconstruction_0" in (Path(out) / "worklist.html").read_text()
    (tmp_path / "tiles" / "normal").mkdir(parents=True)
    for n, tile in enumerate(pixels):
        (tmp_path / "tiles" / "normal" / f"{n:03d}.png").write_bytes(encode_png(tile))
    data = str(tmp_path / "tiles")
    score(data, bundle_uri=uri, bundle=made, out=str(tmp_path / "f.parquet"))
    scored = pq.read_table(tmp_path / "f.parquet").sort_by("tile_id")["score"].to_numpy()
    np.testing.assert_allclose(scored, expected, rtol=1e-4)
    train(_config(_detector(folder)), data=data, out=str(tmp_path / "of_tiles"))
    assert _counted(tmp_path / "of_tiles") == 160


def test_residuals_of_an_autoencoder_are_fitted_on_slides_that_are_new_to_it(folder: Path, tmp_path: Path) -> None:
    """Of the configuration that it was trained with, two fields more."""
    config = _config(MEMBERS["dpa"] | {"score": "mahalanobis", "autoencoder": str(folder / "dpa")})
    with pytest.raises(InputError, match=r"member dpa \(dpa\) was trained on some of these: dpa0, dpa1"):
        train(config, data=str(folder / "dpa.csv"), out=str(tmp_path / "o"), without_ray=True)
    made = train(config, data=str(folder / "held.csv"), out=str(tmp_path / "o"), without_ray=True)
    assert isinstance(made, Bundle)
    assert getattr(made.detector, "autoencoder", "") is None
    assert [each["id"] for each in made.training_data["members"]] == [read_bundle(str(folder / "dpa")).id]
    seen = [*_rows(folder, "dpa", 3), *_rows(folder, "held", 4)]
    assert all(is_seen(row, made.trained_on) for row in seen)
    assert made.licences == read_bundle(str(folder / "dpa")).licences
    before, after = (load_file(uri / "weights.safetensors") for uri in (folder / "dpa", tmp_path / "o"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert after["residuals.moments.0.count"] == 20 * 8 * 12 * 12
    assert (tmp_path / "o" / "bundle.json").read_text().count(str(folder)) == 0
    score = load_detector(str(tmp_path / "o"))(np.zeros((2, 24, 24, 3), np.uint8)).score
    assert np.isfinite(score).all()
