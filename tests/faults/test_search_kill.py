"""A driver killed in the middle of slides whose tiles are searched for: it loses what it was at, and nothing else."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_detectors
from command_line import answer, run, start

from uadray.bench.slides import write_calibration, write_slide
from uadray.detectors.anogan import Config
from uadray.detectors.bundle import load_detector, write_bundle
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.slides.opening import open_slide
from uadray.tiles.chunks import read_chunks
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("torch_alone")]

N_SLIDES = 3
SPEC = TileSpec(mpp=0.5, tile_px=96, min_tissue=0.0, quality=None)
STEPS = 25
"""Of the search: some seconds a slide, in three parts."""


def test_a_driver_killed_while_it_searches_goes_on_with_the_slides_it_had_not_decided(tmp_path: Path) -> None:
    (example,) = (config for config in small_detectors.CONFIGS if config.kind == "anogan")
    config = Config.model_validate(example.model_dump() | {"descent": {"steps": STEPS}})
    uri, out = str(tmp_path / "bundle"), tmp_path / "out"
    bundle = write_bundle(uri, small_detectors.trained(config), name="search", detector=config, tiles=SPEC)
    path = write_slide(tmp_path / "slide.tif", repeats=5, phantom_px=512)
    expected = plain_scores(path, uri)
    write_calibration(uri, bundle, scores=tuple(np.linspace(0, 2 * max(expected.values()), 19)))
    rows = [SlideRow(slide_id=f"s{i}", uri=str(path.with_name(f"s{i}.tif"))) for i in range(N_SLIDES)]
    for row in rows:
        os.link(path, row.uri)
    write_manifest(rows, str(tmp_path / "m.csv"))

    command = ("screen", uri, "--slides", str(tmp_path / "m.csv"), "--out", str(out))
    killed = start(*command)
    while not decided(out):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before, begun = decided(out), {file.stem for file in (out / "leases").rglob("*.json")}
    assert 1 <= len(before) < N_SLIDES
    assert begun - before.keys(), "slides were in the middle"

    done = run(*command)
    assert done.returncode == 0, done.stderr
    summary, after = answer(done), decided(out)
    assert (summary["scored"], summary["open"], summary["failed"]) == (N_SLIDES, 0, 0)
    assert summary["slides_now"] == N_SLIDES - len(before), "what was decided is not done again"
    assert after.keys() == {row.slide_id for row in rows}
    assert {name: after[name] for name in before} == before
    assert pq.read_table(out / "decisions.parquet")["slide_id"].to_pylist() == [row.slide_id for row in rows]
    for row in rows:
        table = pq.read_table(out / "tiles" / f"{row.slide_id}.parquet")
        places = [tile_id.partition("/")[2] for tile_id in table["tile_id"].to_pylist()]
        assert sorted(places) == sorted(expected), "every tile once"
        difference = np.subtract(table["score"].to_numpy(), [expected[place] for place in places])
        assert np.abs(difference).max() < 1e-5


def decided(out: Path) -> dict[str, str]:
    """The decisions that are there, as they were written."""
    return {path.stem: path.read_text() for path in (out / "decisions").glob("*.json") if is_whole(path)}


def is_whole(path: Path) -> bool:
    """Whether a file is there to its end."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True


def plain_scores(path: Path, uri: str) -> dict[str, float]:
    """By the place of the tile, without Ray and undisturbed."""
    detector = load_detector(uri)
    with open_slide(path, slide_id="s") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        chunks = list(read_chunks(slide, plan.tiles, spec=SPEC))
    assert len(chunks) >= 3
    score = np.concatenate([detector(chunk.pixels).score for chunk in chunks])
    return dict(zip([name.partition("/")[2] for name in plan.tiles["tile_id"].to_pylist()], score, strict=True))
