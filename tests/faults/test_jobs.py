"""The jobs, whole: what the demo makes is screened again from S3, killed half-way, and compared."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import answer, run, start
from seaweed import SeaweedServer

from uadray.bench.processes import titled
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import read_tile
from uadray.storage import objects

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demo with half of its training: its folder and its answer. In whole it takes `make demo`, and finds more."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = run("demo", "--out", str(folder), "--epochs", "2", timeout=900)
    assert done.returncode == 0, done.stderr
    return folder, answer(done)


@pytest.mark.timeout(900)
def test_the_demo_finds_lesions_that_colour_does_not(demo_folder: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = demo_folder
    assert summary["slide_auroc"] >= 0.95  # 1.00 when this was written, tiles 0.99
    assert summary["tile_auroc"] >= 0.95
    for name, value in summary["trivial"].items():
        assert max(value, 1 - value) < 0.65, name
    assert summary["failed"] == 0
    page = (folder / "screening" / "worklist.html").read_text()
    assert all(f"test_{i:03d}" in page for i in range(summary["slides"]))


@pytest.mark.timeout(900)
def test_batch_and_plain_python_give_the_same_tile_scores(demo_folder: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = demo_folder
    bundle = read_bundle(str(folder / "bundle"))
    detector = load_detector(str(folder / "bundle"), bundle)
    row = read_manifest(str(folder / "slides" / "test" / "manifest.csv"))[0]
    table = pq.read_table(folder / "screening" / "tiles" / f"{row.slide_id}.parquet")
    with open_slide(Path(row.uri), slide_id=row.slide_id, mpp=row.mpp) as slide:
        tiles = [
            read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=bundle.tiles.mpp, tile_px=bundle.tiles.tile_px)
            for x, y in zip(table["x_level0_px"].to_pylist(), table["y_level0_px"].to_pylist(), strict=True)
        ]
    np.testing.assert_allclose(detector(np.stack(tiles)).score, table["score"].to_numpy(), atol=1e-5)


@pytest.mark.timeout(900)
@pytest.mark.s3
def test_a_killed_driver_loses_nothing_and_does_nothing_twice(
    demo_folder: tuple[Path, dict[str, Any]], s3: SeaweedServer
) -> None:
    folder, _ = demo_folder
    root = f"s3://{s3.bucket}/archive"
    _copy(folder / "slides" / "test", f"{root}/slides")
    _copy(folder / "bundle", f"{root}/bundle", leave_out="checkpoints")
    command = ("screen", f"{root}/bundle", "--slides", f"{root}/slides/manifest.csv", "--out", f"{root}/out")
    killed = start(*command, env=s3.env)
    before = _kill_after(killed, f"{root}/out/decisions", slides=3)
    assert 3 <= len(before) < 12
    done = run(*command, env=s3.env, timeout=400)
    assert done.returncode == 0, done.stderr
    after = _etags(f"{root}/out/decisions")
    assert len(after) == answer(done)["scored"] == 12
    assert {uri: after[uri] for uri in before} == before
    assert answer(done)["slides_now"] == 12 - len(before)
    _same_decisions(folder / "screening", f"{root}/out")


def _copy(folder: Path, uri: str, *, leave_out: str = "nothing") -> None:
    for path in folder.rglob("*"):
        if path.is_file() and leave_out not in path.parts:
            objects.write_bytes(objects.join(uri, str(path.relative_to(folder))), path.read_bytes())


def _etags(uri: str) -> dict[str, str]:
    return {info.uri: info.etag for info in objects.list_objects(uri)}


def _kill_after(process: Any, uri: str, *, slides: int) -> dict[str, str]:
    """Kill the driver's whole process group with signal 9 once some slides are decided; what was decided by then."""
    while len(_etags(uri)) < slides:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return _etags(uri)


def _same_decisions(local: Path, uri: str) -> None:
    for path in sorted((local / "decisions").glob("*.json")):
        here, there = (
            json.loads(data) for data in (path.read_bytes(), objects.read_bytes(f"{uri}/decisions/{path.name}"))
        )
        assert there["score"] == pytest.approx(here["score"], abs=1e-5)
        assert there["decision"] == here["decision"]


@pytest.mark.timeout(900)
def test_every_odd_slide_ends_in_a_named_state(
    demo_folder: tuple[Path, dict[str, Any]], data_dir: Path, tmp_path: Path
) -> None:
    folder, _ = demo_folder
    rows = [SlideRow(slide_id=path.name, uri=str(path)) for path in sorted((data_dir / "wsi").iterdir())]
    rows.append(SlideRow(slide_id="gone", uri=str(tmp_path / "gone.svs")))
    write_manifest(rows, str(tmp_path / "m.csv"))
    done = run("screen", str(folder / "bundle"), "--slides", str(tmp_path / "m.csv"), "--out", str(tmp_path / "o"))
    assert done.returncode == 1, done.stderr
    decisions = pq.read_table(tmp_path / "o" / "decisions.parquet").to_pylist()
    ends = {d["slide_id"]: (d["state"], d["reason"]) for d in decisions}
    assert set(ends) == {row.slide_id for row in rows}
    assert ends["CMU-1-Small-Region.svs"] == ("scored", None)
    assert ends["tcga-cr-7395-01a-01-ts1.svs"] == ("failed", "no_mpp")
    for name in ("broken.svs", "unopenable.tiff", "unreadable.svs"):
        assert ends[name] == ("failed", "unreadable")
    assert ends["gone"] == ("failed", "missing")
    assert all(d["score"] is None for d in decisions if d["state"] != "scored")


TINY = {
    "name": "tiny",
    "generator": {"kind": "wgan_gp", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2},
    "tiles": {"mpp": 1.0, "tile_px": 32, "min_tissue": 0.0},
    "epochs": 6,
    "steps_per_epoch": 20,
    "batch_size": 8,
    "shuffle_tiles": 32,
    "threads": 1,
    "workers": 2,
}


@pytest.fixture
def tile_set(tmp_path: Path) -> Path:
    from uadray.reports.pictures import encode_png

    rng = np.random.default_rng(0)
    folder = tmp_path / "tiles" / "normal"
    folder.mkdir(parents=True)
    for i in range(64):
        (folder / f"{i}.png").write_bytes(encode_png(rng.integers(0, 255, (32, 32, 3), np.uint8)))
    return folder.parent


@pytest.mark.timeout(900)
def test_a_killed_training_goes_on_from_its_last_epoch(tile_set: Path, tmp_path: Path) -> None:
    """Its driver first; and when it goes on, one of its workers, of which it says so.

    Every figure is that of two processes without Ray that nobody stopped, from the first step after a checkpoint on.
    """
    config, out = tmp_path / "tiny.yaml", tmp_path / "bundle"
    config.write_text(json.dumps(TINY))
    expected = _trained_by_two(config, tile_set, tmp_path / "meeting")
    command = ("train", str(config), "--data", str(tile_set), "--out", str(out))
    killed = start(*command)
    while not list(out.glob("checkpoints/checkpoint_*/progress.json")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (out / "bundle.json").exists()
    again = run(*command)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    before = set(out.glob("checkpoints/checkpoint_*/progress.json"))
    resumed = start(*command, "--resume")
    while set(out.glob("checkpoints/checkpoint_*/progress.json")) <= before:
        assert resumed.poll() is None, resumed.communicate()
        time.sleep(0.05)
    os.kill(titled(resumed.pid, "ray::RayTrainWorker")[0], signal.SIGKILL)
    _, printed = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, printed
    assert re.search(
        r"training: worker [01] on [0-9.]+ was lost \(its process or node died\); restart 1 of 2, ", printed
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(6))
    for line, theirs in zip(lines, expected, strict=True):
        for name in ("step", "images_shown", "wasserstein", "gradient_penalty", "generator"):
            assert line[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), (line["epoch"], name)
    progress = [json.loads(p.read_text()) for p in out.glob("checkpoints/checkpoint_*/progress.json")]
    assert max(p["tiles_taken"] for p in progress) == 2 * 8 * (256 // 8 + 6 * 20)
    assert (out / "samples.html").exists()


def _trained_by_two(config: Path, tiles: Path, meeting: Path) -> list[dict[str, Any]]:
    """The lines of a training by two processes without Ray, to each of which the parts are dealt in turn."""
    worker = Path(__file__).parents[1] / "training" / "group_worker.py"
    commands = [[sys.executable, str(worker), str(rank), str(meeting), str(config), str(tiles)] for rank in (0, 1)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    lines: list[dict[str, Any]] = json.loads(said[0].splitlines()[-1])["lines"]
    return lines
