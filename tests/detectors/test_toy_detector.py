"""A detector that uadray does not know is added as one file and two lines, then trained, opened, and put to work."""

import base64
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import uadray
from uadray.phantoms.pyramid import write_pyramid
from uadray.reports.pictures import encode_png
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.tiles.cells import cells_of

IMPORT = ("    fanogan,\n", "    fanogan,\n    mean_colour,\n")
MEMBER = ("    | fanogan.Config\n", "    | fanogan.Config\n    | mean_colour.Config\n")
CASE = (
    "        case fanogan.Config():\n",
    "        case mean_colour.Config():\n            return mean_colour\n        case fanogan.Config():\n",
)
RUN: dict[str, Any] = {
    "name": "mean colour", "detector": {"kind": "mean_colour", "input_px": 32},
    "tiles": {"mpp": 1.0, "tile_px": 40, "min_tissue": 0.0, "quality": None}, "epochs": 2, "steps_per_epoch": 10,
    "batch_size": 8, "shuffle_tiles": 64, "threads": 1,
}  # fmt: skip
COLOURS = [(200, 120, 170), (205, 125, 175), (195, 115, 165), (202, 118, 172)]
"""Of normal tiles, one a slide."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a copy of uadray that knows the toy: its file, its member and its case."""
    folder = tmp_path_factory.mktemp("package")
    source = Path(uadray.__file__).parent
    shutil.copytree(source, folder / "uadray", ignore=shutil.ignore_patterns("__pycache__"))
    detectors = folder / "uadray" / "detectors"
    shutil.copy(Path(__file__).with_name("mean_colour.py"), detectors)
    catalog = (detectors / "catalog.py").read_text()
    for before, after in (IMPORT, MEMBER, CASE):
        assert catalog.count(before) == 1, before
        catalog = catalog.replace(before, after)
    (detectors / "catalog.py").write_text(catalog)
    return folder


def _environment(package: Path) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "PYTHONPATH": str(package), "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip


def _python(package: Path, script: str, *arguments: str, timeout_s: float = 400) -> str:
    """Run a script by the copy; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=_environment(package), cwd=package, capture_output=True,
        text=True, check=False, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _uadray(package: Path, *arguments: str) -> str:
    return _python(package, "from uadray.cli import main; main()", *arguments)


def _noisy(colour: tuple[int, int, int], rng: np.random.Generator, side_px: int) -> np.ndarray:
    return np.clip(np.array(colour) + rng.normal(0, 6, (side_px, side_px, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tile_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiles") / "normal"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(120):
        (folder / f"{n:03d}.png").write_bytes(encode_png(_noisy(COLOURS[n % 4], rng, 40)))
    return str(folder.parent)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "mean_colour.yaml"
    path.write_text(json.dumps(RUN))
    return str(path)


SCORED = """
import json, sys
import numpy as np
from uadray.detectors.bundle import load_detector, read_bundle
bundle = read_bundle(sys.argv[1])
detector = load_detector(sys.argv[1], bundle)
tiles = np.stack([np.full((40, 40, 3), colour, np.uint8) for colour in ((200, 120, 170), (90, 40, 140))])
scored = detector(tiles)
x, x_hat = scored.pictures([1])
print(json.dumps({
    "id": bundle.id, "licences": bundle.licences, "metrics": bundle.metrics, "scores": scored.score.tolist(),
    "map": scored.maps([0, 1]).shape, "x": x.shape, "has_picture": x_hat is not None,
    "cells": scored.cells.shape,
}))
"""


def test_it_is_trained_and_scores(package: Path, tile_set: str, config_file: str, tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    _uadray(package, "train", config_file, "--data", tile_set, "--out", out, "--without-ray")
    answer = json.loads(_python(package, SCORED, out))
    assert answer["licences"] == {}
    assert answer["metrics"]["tiles"] > 80, "a mean over the epoch of what was seen so far"
    normal, abnormal = answer["scores"]
    assert normal < 3
    assert abnormal > 5
    assert answer["map"] == [2, 32, 32]
    assert answer["cells"] == [2, 6, 6]
    assert answer["x"] == [1, 32, 32, 3]
    assert not answer["has_picture"]
    lines = [json.loads(line) for line in (tmp_path / "bundle" / "metrics.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["see the tiles once"] * 2
    assert "makes no pictures of its own" in (tmp_path / "bundle" / "samples.html").read_text()
    assert len(list((tmp_path / "bundle" / "samples").glob("*.jpg"))) == 2


FOREIGN = """
import hashlib, json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from uadray.detectors.bundle import load_detector
from uadray.errors import InputError
folder, run = Path(sys.argv[1]), json.loads(sys.argv[2])
for n in (8, 2**20):
    save_file({"normal.sums": torch.zeros(n, dtype=torch.float64)}, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    values = {"version": 1, "name": "n", "detector": run["detector"], "tiles": run["tiles"], "weights_sha256": digest}
    (folder / "bundle.json").write_text(json.dumps(values))
    try:
        load_detector(str(folder))
    except InputError as error:
        print(error)
"""


def test_fitted_arrays_are_compared_with_the_configuration_before_they_are_read(package: Path, tmp_path: Path) -> None:
    """One that is a little too large is refused at the file's header, one of megabytes is not fetched."""
    small, large = _python(package, FOREIGN, str(tmp_path), json.dumps(RUN)).splitlines()
    assert "weights do not fit the normal: size mismatch for sums: F64 (8,), expected F64 (7,)" in small
    assert "weights.safetensors" in large
    assert "bytes" in large


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small slides in the colours of normal tissue, the last with a foreign patch: calib.csv and test.csv."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(1)
    rows = []
    for i in range(12):
        image = _noisy(COLOURS[i % 4], rng, 480)
        if i == 11:
            image[80:400, 80:400] = _noisy((90, 40, 140), rng, 320)
        write_pyramid(folder / f"s{i}.tif", image, mpp=1.0, tile_px=128)
        rows.append(SlideRow(f"s{i}", str(folder / f"s{i}.tif"), patient_id=f"p{i}"))
    write_manifest(rows[:9], str(folder / "calib.csv"))
    write_manifest(rows[9:], str(folder / "test.csv"))
    return folder


TRAINED = """
import json, sys
from uadray.commands.train import train
from uadray.config import parse_config
from uadray.training.config import TrainConfig
for run, data, out in json.loads(sys.argv[1]):
    train(parse_config(TrainConfig, run, source="test"), data=data, out=out, without_ray=True)
"""


def test_it_is_a_member_of_a_combination(package: Path, tile_set: str, tmp_path: Path) -> None:
    """Two of other sizes, on tiles that are new to both."""
    (tmp_path / "held_out").mkdir()
    rng = np.random.default_rng(5)
    for n in range(80):
        (tmp_path / "held_out" / f"{n:03d}.png").write_bytes(encode_png(_noisy(COLOURS[n % 4], rng, 40)))
    members = [str(tmp_path / side_px) for side_px in ("16", "32")]
    runs = [
        (RUN | {"detector": {"kind": "mean_colour", "input_px": int(Path(uri).name)}}, tile_set, uri) for uri in members
    ]
    together = (
        RUN | {"detector": {"kind": "combined", "bundles": members}},
        str(tmp_path / "held_out"),
        str(tmp_path / "b"),
    )
    _python(package, TRAINED, json.dumps([*runs, together]))
    answer = json.loads(_python(package, SCORED, str(tmp_path / "b")))
    normal, abnormal = answer["scores"]
    assert abnormal > 20 > normal
    assert answer["map"] == [2, 32, 32]
    assert not answer["has_picture"]


@pytest.fixture
def endpoint(package: Path, tmp_path: Path) -> Iterator[int]:
    """`uadray serve` of the bundle in `tmp_path/bundle`, each stage by itself: its port."""
    port = 8000 + os.getpid() % 1000
    args = {"out": str(tmp_path / "endpoint"), "bundles": {"main": str(tmp_path / "bundle")}, "insecure": True}
    small = {name: {"replicas": 1, "cpus": 0.1} for name in ("encoder", "generator", "scorer")}
    application = {"args": args | {"one_replica": False} | small}
    values = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
    (tmp_path / "serve.yaml").write_text(json.dumps(values))
    process = subprocess.Popen(
        [sys.executable, "-c", "from uadray.cli import main; main()", "serve", str(tmp_path / "serve.yaml")],
        env=_environment(package), cwd=package, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    yield port
    process.terminate()
    process.communicate(timeout=60)


def _asked(port: int, tile: np.ndarray) -> dict[str, Any]:
    image = base64.b64encode(cv2.imencode(".png", np.ascontiguousarray(tile[..., ::-1]))[1].tobytes()).decode()
    body = json.dumps({"tiles": [{"id": "a", "image": image}]})
    until = time.monotonic() + 120
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            with closing(connection):
                connection.request("POST", "/v1/tiles/score", body)
                response = connection.getresponse()
                text = response.read()
            if response.status == 200 or time.monotonic() > until:
                answer: dict[str, Any] = json.loads(text)
                return answer
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_trained_calibrated_screened_and_served_on_ray(
    package: Path, tile_set: str, config_file: str, archive: Path, tmp_path: Path
) -> None:
    bundle, out = str(tmp_path / "bundle"), tmp_path / "screening"
    _uadray(package, "train", config_file, "--data", tile_set, "--out", bundle, "--set", "workers=2")
    _uadray(package, "calibrate", bundle, "--slides", str(archive / "calib.csv"), "--alpha", "0.1")
    summary = json.loads(
        _uadray(package, "screen", bundle, "--slides", str(archive / "test.csv"), "--out", str(out)).splitlines()[-1]
    )
    assert summary["scored"] == 3
    decisions = {p.stem: json.loads(p.read_text())["decision"] for p in (out / "decisions").glob("*.json")}
    assert decisions["s11"] == "anomalous"
    page = (out / "worklist.html").read_text()
    assert ".svg#tile_0" in page
    assert "#reconstruction_0" not in page
    assert ".svg#cells_0" in page
    sheets = [path.read_text() for path in (out / "evidence").glob("*.svg")]
    assert not any('id="reconstruction' in sheet for sheet in sheets)
    assert all('id="cells_0"' in sheet for sheet in sheets)
    cells = cells_of(pq.read_table(out / "tiles" / "s11.parquet"))
    assert cells is not None
    low, high = (
        json.loads((Path(bundle) / "calibration.json").read_text())[f"cell_{end}"] for end in ("median", "high")
    )
    assert low < np.nanmedian(cells) < np.nanmax(cells)
    assert high < np.nanmax(cells)  # the foreign patch


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_served_stage_by_stage(
    package: Path, tile_set: str, config_file: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = str(tmp_path / "bundle")
    _uadray(package, "train", config_file, "--data", tile_set, "--out", bundle, "--without-ray")
    normal, abnormal = json.loads(_python(package, SCORED, bundle))["scores"]
    port = request.getfixturevalue("endpoint")
    for colour, expected in (((200, 120, 170), normal), ((90, 40, 140), abnormal)):
        answer = _asked(port, np.full((40, 40, 3), colour, np.uint8))
        assert answer["scores"][0]["score"] == pytest.approx(expected, abs=1e-5)
