"""`bench one-against-all` on a zip of small coloured squares: every row, kept and gone on with."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from uadray.bench import index, one_against_all
from uadray.bench.one_against_all import CLASSES, Row, rows, trained, upright
from uadray.detectors import deep_geo, deep_if, piad
from uadray.detectors.features.frozen import BackboneConfig
from uadray.errors import InputError

pytestmark = pytest.mark.usefixtures("torch_alone")


def small_rows(device: str) -> dict[str, Row]:
    lite = BackboneConfig(kind="backbone", layers=("block1",))
    forest = deep_if.Config(kind="deep_if", input_px=32, features=lite, trees=10, max_samples=16, kept=64)
    geo = deep_geo.Config(kind="deep_geo", input_px=32, transformations=("rotation",), fit_fraction=0.5)
    return {"deep_if": Row(forest, 8, 2), "deep_geo": Row(geo, 8, 4)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each class has a colour of its own; a machine with nothing but the zip."""
    where = tmp_path / "data" / "cifar10" / "subset.zip"
    where.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(where, "w") as packed:
        for number, label in enumerate(CLASSES):
            colour = np.array([25 * number, 250 - 25 * number, 60])
            for part, count in (("train", 12), ("test", 4)):
                for picture in range(count):
                    pixels = np.clip(colour + rng.normal(0, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
                    coded = io.BytesIO()
                    Image.fromarray(pixels).save(coded, "JPEG")
                    packed.writestr(f"{part}/{label}/{picture:04d}.jpg", coded.getvalue())
    monkeypatch.setenv("UADRAY_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(one_against_all, "rows", small_rows)
    return where


def test_every_row_has_a_figure_a_class(data: Path, tmp_path: Path) -> None:
    answer = index.run("one-against-all", classes=2, minutes=0.5, out=str(tmp_path / "out"))
    assert answer["classes"] == CLASSES[:2]
    assert answer["pictures_a_class"] == {"train": 12, "test": 4}
    by_name = {row["name"]: row for row in answer["rows"]}
    assert set(by_name) == {"deep_if", "deep_geo", "mean_saturation", "minus_mean_green"}
    assert all(set(row["auroc"]) == set(CLASSES[:2]) and "failed" not in row for row in by_name.values())
    assert by_name["deep_if"]["auroc"]["airplane"] > 0.95, "colours that far apart are isolated"
    assert by_name["minus_mean_green"]["auroc"]["airplane"] == 1, "the normal class is the greenest"
    assert by_name["deep_geo"]["training"]["airplane"]["steps"] == 4
    assert by_name["deep_geo"]["published"]["mean_of_ten_classes"] == 0.86


def test_what_is_there_is_not_made_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what failed, and for another budget."""
    out = tmp_path / "out"
    made: list[str] = []

    def counted(row: Row, *args: Any, **given: Any) -> Any:
        made.append(row.config.kind)
        if row.config.kind == "deep_geo" and len(made) == 2:
            raise RuntimeError("once")
        return trained(row, *args, **given)

    monkeypatch.setattr(one_against_all, "trained", counted)
    first = one_against_all.run(classes=1, minutes=0.5, out=str(out))
    assert first["rows"][1]["failed"] == {"airplane": "RuntimeError: once"}
    second = one_against_all.run(classes=1, minutes=0.5, out=str(out))
    assert made == ["deep_if", "deep_geo", "deep_geo"]
    assert second["rows"][0] == first["rows"][0]
    one_against_all.run(classes=1, minutes=0.4, out=str(out), only=["deep_if"])
    assert made[3:] == ["deep_if"]


def test_what_cannot_be_asked_for(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no row vae; there are: deep_if"):
        one_against_all.run(only=["vae"])
    with pytest.raises(InputError, match="classes 11"):
        one_against_all.run(classes=11)
    monkeypatch.setenv("UADRAY_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"needs cifar10/subset\.zip"):
        one_against_all.run()


def test_pictures_stay_upright_and_each_comes_once_a_pass() -> None:
    pictures = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    pictures[:, 0] = 200
    stream = upright(pictures, 4, seed=0, device=torch.device("cpu"))
    seen = torch.cat([next(stream) for _ in range(5)])
    assert sorted(((seen[:, 0, 1, 1] + 1) * 127.5).round().int().tolist()) == sorted([*range(10)] * 2)
    assert (seen[:, :, 0] > 0.5).all()


def test_a_budget_ends_a_training_and_every_phase_is_reached() -> None:
    geo = deep_geo.Config(kind="deep_geo", input_px=32, transformations=("rotation",), fit_fraction=0.3)
    normals = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    networks, figures = trained(Row(geo, 8, 10**6), normals, minutes=0.01, device="cpu")
    assert 1 < figures["steps"] < 10**4
    assert figures["minutes"] < 0.2
    assert float(networks["outputs"].get_buffer("count")) >= 2


def test_on_a_gpu_sizes_are_the_papers() -> None:
    """Authors' configurations for CIFAR-10."""
    for device in ("cpu", "cuda"):
        assert set(rows(device)) == {"dpa", "piad", "deep_if", "deep_geo", "mahalanobis"}
    large = rows("cuda")
    geo, four = large["deep_geo"].config, large["piad"].config
    assert isinstance(geo, deep_geo.Config)
    assert (geo.depth, geo.widen, large["deep_geo"].batch) == (10, 4, 128)
    assert isinstance(four, piad.Config)
    assert (four.latent_dim, four.latent_width, four.critic_steps, large["piad"].batch) == (256, 1024, 2, 32)
