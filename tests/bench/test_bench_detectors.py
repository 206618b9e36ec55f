"""`bench detectors`: the whole table on a few real tiles and mosaics, what fails in it, and going on after a kill."""

import csv
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from uadray.bench import detectors, index
from uadray.bench.detector_data import CALIBRATION, SPEC, Sizes, data_folder, read_data, read_label, thinned
from uadray.detectors import fanogan
from uadray.detectors.bundle import write_bundle
from uadray.errors import InputError
from uadray.tiles.trivial_scores import trivial_scores

SIZES = Sizes(held_normals=30, known_tumours=10, reference_normals=40)
SLIDES = {CALIBRATION: 20, "test": 4, "small": 4}

FANOGAN = """
name: tiny
detector: {kind: fanogan, input_px: %d, width: 4, latent_dim: 8, critic_steps: 1}
tiles: {mpp: 1.944, tile_px: %d}
epochs: 2
steps_per_epoch: 400
batch_size: 8
shuffle_tiles: 64
threads: 1
"""


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A folder as the development data, with a hundred tiles and some mosaics of it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pcam").mkdir()
    for name, counts in (("train.zip", {"normal": 100, "tumor": 40}), ("valid.zip", {"normal": 60, "tumor": 60})):
        with zipfile.ZipFile(data_dir / "pcam" / name) as every, zipfile.ZipFile(folder / "pcam" / name, "w") as some:
            for label, n in counts.items():
                members = sorted(m for m in every.namelist() if m.split("/")[-2:-1] == [label] and m.endswith(".jpg"))
                for member in members[:: len(members) // n][:n]:
                    some.writestr(member, every.read(member))
    for name, n in SLIDES.items():
        source, target = data_dir / "mosaics" / name, folder / "mosaics" / name
        target.mkdir(parents=True)
        head, *lines = (source / "manifest.csv").read_text().splitlines()
        of_label = [line for label in ("normal", "tumor") for line in [x for x in lines if f",{label}," in x][: n // 2]]
        kept = of_label if name != CALIBRATION else lines[:n]
        (target / "manifest.csv").write_text("\n".join([head, *kept]) + "\n")
        for line in kept:
            (target / line.split(",")[1]).symlink_to(source / line.split(",")[1])
    return folder


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(FANOGAN % (16, 48))
    (folder / "too_wide.yaml").write_text(FANOGAN % (64, 64))  # a tile has 48 px there
    return folder


def _rows(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in answer["rows"]}


@pytest.mark.usefixtures("torch_alone")
def test_the_table(few: Path, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_DATA", str(few))
    out = tmp_path / "out"
    options: dict[str, Any] = {
        "only": ("tiny", "too_wide", "mean_saturation"), "minutes": 0.05, "out": str(out),
        "sizes": SIZES, "configs": configs,
    }  # fmt: skip
    answer = detectors.run(**options)
    rows = _rows(answer)

    assert rows["too_wide"]["failed"]["0"].startswith("InputError: its input is 64 px at 1.944 um; a tile has 48")
    assert "mean" not in rows["too_wide"]
    training = rows["tiny"]["mean"]["training"]
    assert 0 < training["steps"] < training["steps_configured"] == 800, "the budget holds only some of the steps"
    assert (training["tile_px"], training["tiles_of_train"]) == (48, training["tiles_of_train"])
    assert training["tiles_of_train"] <= 100 - SIZES.held_normals, "held-out tiles are not trained on"
    saturation = np.concatenate(
        [trivial_scores(read_label(str(few / "pcam" / "valid.zip"), label))[0] for label in ("normal", "tumor")]
    )
    tiles = rows["mean_saturation"]["mean"]["tiles"]
    assert tiles["auroc"] == pytest.approx(roc_auc_score(np.repeat([0, 1], 60), saturation))
    assert rows["mean_saturation"]["mean"]["slides"]["test"]["n_tumour"] == 2
    assert answer["goals_met"] is None, "the recommended detector is not among the rows"

    written = json.loads((out / "detectors.json").read_text())
    assert [row["name"] for row in written["rows"]][-1] == "too_wide", "by AUROC, what has none is last"
    assert {line["name"] for line in csv.DictReader((out / "detectors.csv").read_text().splitlines())} == set(rows)
    assert "too_wide" in (out / "detectors.html").read_text()

    assert rows["tiny"]["budget"] == "0.05 min, cpu"
    assert rows["tiny"]["mean"]["scored"] == {"every": 1, "valid": 120, "of": 120, "why": ""}
    assert rows["tiny"]["above_trivial"] in (True, False)
    assert rows["mean_saturation"]["above_trivial"] is None

    before = {path.name: path.read_bytes() for path in (out / "rows").iterdir()}
    (out / "rows" / "mean_saturation-seed0.json").write_text('{"key": ')  # killed while it wrote
    again = _rows(detectors.run(**options))
    after = {path.name: path.read_bytes() for path in (out / "rows").iterdir()}
    tiny = "tiny-0.05_min,_cpu-seed0.json"
    assert after[tiny] == before[tiny], "what was made is not made again"
    assert "failed" in again["too_wide"]
    assert again["mean_saturation"]["mean"]["tiles"] == tiles
    more = _rows(detectors.run(**options | {"only": ("mean_saturation", "tiny"), "seeds": 2}))
    assert (more["mean_saturation"]["seeds"], more["tiny"]["seeds"]) == ([0], [0, 1])
    assert "too_wide" not in more, "it failed before, and is not asked for"
    still = _rows(detectors.run(**options | {"only": ("mean_saturation",)}))
    assert still["tiny"] == more["tiny"], "what the folder has stays in the table"
    ours = [one["tiles"]["auroc"] for one in more["tiny"]["by_seed"]]
    assert more["tiny"]["mean"]["tiles"]["auroc"] == pytest.approx(np.mean(ours))


@pytest.mark.usefixtures("torch_alone")
def test_a_bundle_from_elsewhere_on_tiles_alone(few: Path, configs: Path, tmp_path: Path) -> None:
    config = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8)
    uri = str(tmp_path / "bundle")
    write_bundle(
        uri, fanogan.networks(config, pretrained=False), detector=config, name="far", tiles=SPEC,
        training_data={"n_tiles": 7, "crops": 640}, metrics={"step": 10.0},
    )  # fmt: skip
    options: dict[str, Any] = {
        "only": ("far", "minus_mean_green"), "out": str(tmp_path / "out"), "sizes": SIZES, "configs": configs,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UADRAY_DATA", str(few))
        answer = detectors.run(**options, bundle=[f"far={uri}"], tiles_only=True, valid_tiles=40)
        row = _rows(answer)["far"]
        assert (row["group"], row["budget"], row["mean"]["slides"]) == ("bundle", "", {})
        assert row["mean"]["scored"] == {"every": 3, "valid": 40, "of": 120, "why": ""}
        assert row["mean"]["training"]["tiles_seen"] == 640
        page = (tmp_path / "out" / "detectors.html").read_text()
        assert "trained elsewhere" in page
        assert "every 3rd tile" in page
        again = detectors.run(**options | {"only": ("minus_mean_green",)})
        assert _rows(again)["far"] == row, "a bundle's row stays although it is not named again"
        assert _rows(again)["minus_mean_green"]["mean"]["slides"]["test"]["n_tumour"] == 2, "made anew: mosaics asked"
        with pytest.raises(InputError, match="tiny would name two rows"):
            detectors.run(**options, bundle=[f"tiny={uri}"])


def test_every_third_tile_and_its_copies(few: Path) -> None:
    data = read_data(few, SIZES, mosaics=False)
    data = replace(data, shifted=dict.fromkeys(data.shifted, data.valid[data.is_shifted]))
    some = thinned(data, 3)
    assert (some.valid == data.valid[::3]).all()
    assert len(some.held_normals) == 10
    assert (some.shifted["faded"] == some.valid[some.is_shifted]).all()
    assert some.slides == {}


def test_what_is_used_for_what(few: Path) -> None:
    data = read_data(few, SIZES)
    assert (len(data.normals), len(data.held_normals)) == (70, 30)
    assert (len(data.tumours), len(data.known_tumours)) == (40, 10)
    whole = read_label(str(few / "pcam" / "train.zip"), "normal")
    assert (np.concatenate([data.normals, data.held_normals]) == whole).all()
    assert data.anomalous.sum() == 60
    assert [len(tiles) for tiles in data.shifted.values()] == [60, 60]
    assert data.valid[data.is_shifted].shape == data.shifted["faded"].shape
    slide = data.slides["test"][0]
    assert slide.good.sum() == len(slide.pixels) > 20
    assert slide.table["score"].null_count == len(slide.table)


def test_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADRAY_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"needs pcam/train.zip in .*; set UADRAY_DATA"):
        data_folder()


def test_no_such_row() -> None:
    with pytest.raises(InputError, match=r"no row dqa; there are: .*dpa"):
        detectors.run(only=("dqa",))


def test_options_of_others_are_refused() -> None:
    with pytest.raises(InputError, match="bench decode takes no --seeds; it is for detectors"):
        index.run("decode", seeds=2)
