"""Mappings over given generators as rows of `bench detectors`: which fit, what they are shown, what is measured."""

import csv
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from uadray.bench import detectors
from uadray.bench.detector_data import SPEC, Sizes, read_data
from uadray.bench.detector_figures import figures_of
from uadray.bench.detector_mappings import images_shown, mapping_rows
from uadray.bench.detector_pictures import DetectorScore
from uadray.bench.detector_rows import Row
from uadray.detectors.detector import Detector
from uadray.errors import InputError
from uadray.generators import catalog
from uadray.generators.bundle import read_generator, write_generator

GENERATORS: dict[str, dict[str, Any]] = {
    "wgan_gp": {"width": 4, "latent_dim": 8},
    "stylegan2": {"latent_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_max": 8, "channel_base": 64},
}
TILES = SPEC.model_copy(update={"mpp": 1.944, "tile_px": 48, "min_tissue": 0.0})


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two tiny untrained generators of 16 px, of which one has styles."""
    folder = tmp_path_factory.mktemp("generators")
    torch.manual_seed(0)
    for kind, values in GENERATORS.items():
        config = TypeAdapter(catalog.GeneratorConfig).validate_python({"kind": kind, "input_px": 16} | values)
        networks = catalog.file_of(config).networks(config, pretrained=False)
        write_generator(
            str(folder / kind), networks, generator=config, name=kind, tiles=TILES, metrics={"images_shown": 640.0},
            training_data={"crops": 700},
        )  # fmt: skip
    return {f"my_{kind}": str(folder / kind) for kind in GENERATORS}


def few_tiles(folder: Path, data_dir: Path) -> Path:
    """A folder as the development data, with some tiles of it."""
    (folder / "pcam").mkdir(parents=True)
    for name, n in (("train.zip", 30), ("valid.zip", 20)):
        with zipfile.ZipFile(data_dir / "pcam" / name) as every, zipfile.ZipFile(folder / "pcam" / name, "w") as some:
            for label in ("normal", "tumor"):
                members = sorted(m for m in every.namelist() if m.split("/")[-2:-1] == [label] and m.endswith(".jpg"))
                for member in members[:: len(members) // n][:n]:
                    some.writestr(member, every.read(member))
    return folder


def test_images_shown(generators: dict[str, str]) -> None:
    bundle = read_generator(generators["my_wgan_gp"])
    assert images_shown(bundle) == 640
    assert images_shown(bundle.model_copy(update={"metrics": {}})) == 700, "what an older bundle says"
    assert images_shown(bundle.model_copy(update={"metrics": {}, "training_data": {}})) is None


IZI = """
name: izi
detector: {kind: fanogan, width: 4, latent_dim: 8, critic_steps: 1}
tiles: {mpp: 0.972, tile_px: 96}
epochs: 2
steps_per_epoch: 3
batch_size: 8
shuffle_tiles: 64
threads: 1
"""


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    (folder / "mappings").mkdir(parents=True)
    (folder / "mappings" / "izi.yaml").write_text(IZI)
    return folder


def test_a_row_takes_generator_and_tiles(generators: dict[str, str], configs: Path) -> None:
    generator = {"my_wgan_gp": generators["my_wgan_gp"]}
    (row,), left_out = mapping_rows(configs / "mappings", generator)
    assert (row.name, row.group, left_out) == ("izi@my_wgan_gp", "mapping", {})
    assert row.config is not None
    assert (row.config.input_px, row.config.tiles) == (16, TILES)
    assert row.about["generator"]["images_shown"] == 640
    assert row.about["mapping"] == {"name": "izi", "kind": "fanogan", "space": "", "steps": 0}
    (same,), _ = mapping_rows(configs / "mappings", generator)
    assert same.identity == row.identity
    (configs / "mappings" / "izi.yaml").write_text(IZI.replace("batch_size: 8", "batch_size: 4"))
    (other,), _ = mapping_rows(configs / "mappings", generator)
    assert other.identity != row.identity


def test_no_configurations(generators: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configuration in"):
        mapping_rows(tmp_path, generators)
    assert mapping_rows(tmp_path, {}) == ([], {})


@pytest.mark.usefixtures("torch_alone")
def test_the_table(
    generators: dict[str, str], configs: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a few real tiles; a second run keeps the rows of a generator that is not named again."""
    monkeypatch.setenv("UADRAY_DATA", str(few_tiles(tmp_path / "data", data_dir)))
    out = tmp_path / "out"
    options: dict[str, Any] = {
        "out": str(out), "configs": configs, "tiles_only": True, "minutes": 0.05,
        "sizes": Sizes(held_normals=10, known_tumours=5, reference_normals=10),
    }  # fmt: skip
    answer = detectors.run(**options, generator=[f"mine={generators['my_wgan_gp']}"])
    rows = {row["name"]: row for row in answer["rows"]}
    assert set(rows) == {"izi@mine", "mean_saturation", "minus_mean_green"}, "no detector that was not asked for"
    figures = rows["izi@mine"]["mean"]
    assert figures["training"]["generator"]["kind"] == "wgan_gp"
    assert figures["training"]["steps"] == 6, "as configured: no longer than a trial of the pace"
    assert (figures["pictures"]["normal"]["n"], figures["shifted"]) == (20, {})
    assert figures["mapping"]["cpu_ms_per_tile"] > 0
    assert answer["mappings"]["best_reconstruction"]["row"] == "izi@mine"
    assert "Mappings over generators" in (out / "detectors.html").read_text()
    lines = {line["name"]: line for line in csv.DictReader((out / "detectors.csv").read_text().splitlines())}
    line = lines["izi@mine"]
    assert float(line["lpips_normal"]) == figures["pictures"]["normal"]["lpips"]
    assert float(line["generator_images"]) == 640
    again = detectors.run(**options, only=("mean_*",))
    assert {row["name"]: row for row in again["rows"]}["izi@mine"] == rows["izi@mine"]


def test_a_search_is_judged_on_valid_alone(tmp_path: Path, data_dir: Path) -> None:
    data = read_data(few_tiles(tmp_path / "data", data_dir), Sizes(10, 5, 10), mosaics=False)
    space = torch.device("cpu")
    calls: list[int] = []

    def search(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x.mean((2, 3))

    def score(x: torch.Tensor, x_hat: torch.Tensor | None, z: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return z[:, 0], x.mean(1)

    found = DetectorScore(
        Detector(search, lambda z: None, score, input_px=32, device=space, has_picture=False, searches=True), 0.972
    )
    row = Row("a@b", "mapping")
    assert detectors.judged_on(Row("a", "detector"), found, data) is data
    figures = figures_of(found, detectors.judged_on(row, found, data))
    assert calls == [16, 40], "the pace of one group, then each tile of valid once"
    assert (figures["choosing_auroc"], figures["shifted"]) == (None, {})
    assert "specificity_at_held_threshold" not in figures["tiles"]
    plain = DetectorScore(
        Detector(search, lambda z: None, score, input_px=32, device=space, has_picture=False), 0.972
    )  # fmt: skip
    assert figures_of(plain, detectors.judged_on(row, plain, data))["choosing_auroc"] is not None


def test_every_mapping_that_is_shipped_over_what_it_fits(generators: dict[str, str]) -> None:
    folder = Path(__file__).parents[2] / "configs" / "train" / "mappings"
    rows, left_out = mapping_rows(folder, generators)
    with_w = {path.stem for path in folder.glob("*.yaml") if re.search(r"^  space: w", path.read_text(), re.MULTILINE)}
    every = {f"{path.stem}@{name}" for path in folder.glob("*.yaml") for name in generators}
    assert set(left_out) == {f"{name}@my_wgan_gp" for name in with_w}
    assert {row.name for row in rows} == every - set(left_out)
    assert left_out["hybrid_50@my_wgan_gp"] == "a wgan_gp has no latent space w+"
    about = {row.name: row.about["mapping"] for row in rows}
    assert about["anogan_500@my_stylegan2"] == {"name": "anogan_500", "kind": "anogan", "space": "z", "steps": 500}
    assert about["projection_wplus_1000@my_stylegan2"]["steps"] == 1000
    assert all(row.config is not None and row.config.input_px == 16 for row in rows)
