"""`bench ablations`: ten rows of one configuration each, results kept row by row, and differences with directions."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from few_tiles import few_tiles

from uadray.bench import ablations, index
from uadray.bench.ablation_rows import ABLATIONS, DIRECTIONS, PUBLISHED, chosen, rows
from uadray.bench.detector_data import Sizes
from uadray.bench.detector_rows import config_folder
from uadray.detectors import dpa
from uadray.errors import InputError

pytestmark = pytest.mark.usefixtures("torch_alone")

SIZES = Sizes(held_normals=6, known_tumours=4)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    return few_tiles(tmp_path_factory.mktemp("data"), data_dir)


def test_there_are_the_ten_of_the_papers_table_and_each_can_be_built() -> None:
    assert len(ABLATIONS) == 10
    every = rows(steps=100)
    assert len({row.detector for row in every}) == 10, "but for budgets, which are the published one"
    assert {name for better, worse, _ in DIRECTIONS for name in (better, worse)} == set(ABLATIONS)
    for row in chosen(["ablations"], every):
        networks = dpa.networks(row.detector, pretrained=False)
        assert ("critic" in networks, "growth" in networks) == ("adversarial" in row.name, row.name == "growing")
    assert [row.steps for row in chosen(["budgets"], every)] == [300, 1000, 3000, 10_000, 34_666]


def test_the_published_row_is_the_published_configuration() -> None:
    values = yaml.safe_load((config_folder() / "dpa_published.yaml").read_text())
    assert dpa.Config.model_validate(PUBLISHED) == dpa.Config.model_validate(values["detector"])
    grown = yaml.safe_load((config_folder() / "dpa_growing.yaml").read_text())
    assert dpa.Config.model_validate(PUBLISHED | ABLATIONS["growing"]) == dpa.Config.model_validate(grown["detector"])


def test_a_row_that_there_is_not() -> None:
    with pytest.raises(InputError, match="has no row nonsense; there are: ablations, budgets, published"):
        chosen(["nonsense"], rows(1))


def test_rows_are_made_once_and_kept(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed goes on with the next row; what is of other steps is made anew."""
    monkeypatch.setenv("UADRAY_DATA", str(few))
    monkeypatch.setitem(PUBLISHED, "backbone", "alexnet")  # VGG16 takes half a minute on one core
    monkeypatch.setitem(PUBLISHED, "layers", ["relu2"])
    monkeypatch.delitem(ABLATIONS, "growing")

    def run(*names: str, steps: int = 2) -> dict[str, object]:
        return ablations.run(only=names, steps=steps, out=str(tmp_path), sizes=SIZES, batch_tiles=2, valid_tiles=12)

    first = run("published")
    assert [row["name"] for row in first["rows"]] == ["published"]  # type: ignore[attr-defined]
    (row,) = first["rows"]  # type: ignore[misc]
    assert {"auroc", "choosing_auroc", "auroc_relative_l2", "seconds", "loss", "steps"} <= set(row)
    assert row["crops"] == 2 * 2 + 256
    path = tmp_path / "published-seed0.json"
    made = path.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(ablations, "train_plain", _fails)
        assert run("published")["rows"] == first["rows"]
        both = run("published", "with_l1_1")
        assert both["rows"][0] == row  # type: ignore[index]
        assert "RuntimeError: no GPU left" in both["rows"][1]["failed"]["0"]  # type: ignore[index]
    again = run("with_l1_1")
    assert path.read_text() == made
    assert [row["name"] for row in again["rows"]] == ["published", "with_l1_1"]  # type: ignore[attr-defined]
    (compared,) = again["directions"]  # type: ignore[misc]
    ours = [each["auroc"] for each in again["rows"]]  # type: ignore[attr-defined]
    assert compared["difference"] == pytest.approx(ours[0] - ours[1], abs=1e-4)
    assert compared["agrees"] == (ours[0] > ours[1])
    json.dumps(again)
    assert run("published", steps=1)["rows"][0]["steps"] == 1  # type: ignore[index]


def _fails(*_: object, **__: object) -> None:
    raise RuntimeError("no GPU left")


def test_both_distances_are_those_of_the_detectors_that_score_by_them(few: Path) -> None:
    torch.manual_seed(0)
    config = dpa.Config.model_validate(PUBLISHED)
    networks = dpa.networks(config, pretrained=True)
    tiles = ablations.read_tiles(few, SIZES, 5)
    both = ablations.distances(ablations.build_detector(config, networks), networks["features"], tiles.valid)
    for score, found in zip(("relative_l1", "relative_l2"), both, strict=True):
        detector = ablations.build_detector(config.model_copy(update={"score": score}), networks)
        assert found == pytest.approx(detector(tiles.valid).score, rel=1e-5)


def test_the_command_knows_its_options() -> None:
    assert {"only", "device", "seeds", "steps", "out"} <= set(index.OPTIONS["ablations"])
    with pytest.raises(InputError, match="takes no --minutes"):
        index.run("ablations", minutes=1)
