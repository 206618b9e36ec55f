"""`bench findings`: what is compared with what, and what an answer rests on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from few_tiles import few_tiles

from uadray.bench import findings, index
from uadray.bench.detector_data import Sizes
from uadray.bench.detector_rows import config_folder
from uadray.bench.finding_rows import FINDINGS, MODELS
from uadray.bench.findings import answers, intensity, verdict
from uadray.config import load_config
from uadray.errors import InputError
from uadray.evaluation.detection import auroc
from uadray.training.config import TrainConfig

N = 200
ANOMALOUS = np.arange(N) % 2 == 1


def test_every_reading_is_a_configuration_and_changes_nothing_that_is_trained() -> None:
    for model in MODELS:
        detector: Any = load_config(TrainConfig, config_folder() / f"{model.file}.yaml").detector
        for changes in model.readings.values():
            read = type(detector).model_validate(detector.model_dump() | dict(changes))
            assert {name for name in changes if getattr(read, name) != changes[name]} == set()


def test_every_finding_is_about_readings_that_there_are() -> None:
    names = {name for model in MODELS for name in model.names()}
    assert {name for finding in FINDINGS for name in (finding.better, finding.worse)} <= names


def result(readings: Mapping[str, float]) -> dict[str, Any]:
    """Of one training; a reading's scores separate tumour by so much."""
    rng = np.random.default_rng(0)
    made = {}
    for name, shift in readings.items():
        scores = rng.normal(size=N) + shift * ANOMALOUS
        figures = dict.fromkeys(findings.FIGURES, 0.5) | {"auroc": auroc(scores, ANOMALOUS), "choosing_auroc": shift}
        made[name] = figures | {"scores": scores.tolist()}
    of_tiles = {"anomalous": ANOMALOUS.tolist(), "has_tissue": (np.arange(N) >= N / 2).tolist()}
    return {"figures": {"readings": made, "saturation": rng.normal(size=N).tolist()} | of_tiles}


def test_a_finding_holds_where_its_interval_is_above_0() -> None:
    vae = {"vae: kl": 2.0, "vae: reconstruction": 0.0, "vae: elbo": 2.0, "vae: kl_gradient": -2.0}
    told = answers({"vae": {0: result(vae), 1: result(vae)}})
    here = {each["finding"]: each["here"] for each in told["findings"]}
    assert here == {
        "The KL term is the better sample score": "yes",
        "The KL term is better than the whole bound": "not told apart",
        "The gradient of the KL term is better than the reconstruction": "no",
    }
    assert [row["name"] for row in told["readings"]] == list(vae)
    (first, *_) = told["findings"]
    assert first["with_tissue"] == "yes"
    widths = [
        pair["ci95"][1] - pair["ci95"][0] for pair in (first["differences"][0], first["differences_with_tissue"][0])
    ]
    assert widths[0] < widths[1], "half of the tiles have tissue"
    assert len(first["differences"]) == 2
    assert 0.3 < first["differences"][0]["difference"] < 0.5
    assert not told["goals_met"]


def test_groups_are_compared_by_the_readings_that_were_chosen_on_other_tiles() -> None:
    told = answers({
        "vae": {0: result({"vae: kl": 0.1, "vae: reconstruction": 0.9})},
        "synthetic_pasted": {0: result({"synthetic_pasted: score": 0.2})},
        "enlarged_nuclei": {0: result({"enlarged_nuclei: score": 3.0})},
        "vq_vae": {0: {"failed": "it diverged"}},
    })  # fmt: skip
    patches, nuclei = told["findings"][-2:]
    assert (patches["better"], patches["worse"]) == ("synthetic_pasted: score", "vae: reconstruction")
    assert (nuclei["better"], nuclei["worse"]) == ("enlarged_nuclei: score", "vae: reconstruction")
    assert (patches["here"], nuclei["here"]) == ("no", "yes")
    assert told["failed"] == {"vq_vae, seed 0": "it diverged"}


def test_intensity_is_that_of_normal_tiles_alone() -> None:
    rng = np.random.default_rng(1)
    grey = rng.integers(20, 230, N)
    tiles = np.repeat(grey, 4 * 4 * 3).reshape(N, 4, 4, 3).astype(np.uint8)
    tiles[:, 0, 0] = 255
    scores = np.where(ANOMALOUS, rng.normal(size=N), -grey.astype(float))
    assert intensity(scores, tiles, ~ANOMALOUS)["with_density"] == pytest.approx(1)
    assert abs(intensity(scores, tiles, ANOMALOUS)["with_density"]) < 0.3


def test_a_verdict_needs_every_seed() -> None:
    assert verdict([(0.1, 0.2), None]) == "not told apart"


def test_a_model_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no model nonsense; there are: autoencoder, vae"):
        findings.run(only=["nonsense"], out=str(tmp_path))
    assert {"only", "minutes", "seeds"} <= set(index.OPTIONS["findings"])


@pytest.mark.usefixtures("torch_alone")
def test_models_are_trained_once_and_kept(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("UADRAY_DATA", str(few_tiles(tmp_path / "data", data_dir)))

    def run(*names: str) -> dict[str, Any]:
        sizes = Sizes(held_normals=6, known_tumours=4)
        return findings.run(only=names, minutes=0.01, out=str(tmp_path / "out"), sizes=sizes)

    first = run("vae")
    assert [row["name"] for row in first["readings"]] == [
        "vae: reconstruction", "vae: kl", "vae: elbo", "vae: kl_gradient",
    ]  # fmt: skip
    assert all(-1 <= row["with_density"] <= 1 and 0 <= row["auroc"] <= 1 for row in first["readings"])
    assert len(first["findings"]) == 3
    monkeypatch.setattr(findings, "trained", _fails)
    assert run("vae")["findings"] == first["findings"], "kept"
    assert "no GPU left" in run("vae", "autoencoder")["failed"]["autoencoder, seed 0"]


def _fails(*_: object, **__: object) -> None:
    raise RuntimeError("no GPU left")
