"""A slide read and scored as in a screening: what its rows say of the work, and what is counted of it."""

import json
from collections.abc import Iterator

import pytest

from uadray import metrics
from uadray.bench.slides import write_slide, write_tiny_bundle
from uadray.detectors.bundle import read_bundle
from uadray.errors import AccessError
from uadray.screening import slide_reader
from uadray.screening.part_counts import count_part
from uadray.screening.scorer import PartScorer
from uadray.screening.slide_reader import read_slide
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.tiles.plan import plan_slide
from uadray.tiles.quality import QualityConfig
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig


@pytest.fixture(scope="module")
def bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("bundle") / "tiny")
    write_tiny_bundle(uri)
    return uri


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> SlideRow:
    path = write_slide(tmp_path_factory.mktemp("slide") / "s.tif", repeats=2, phantom_px=768, mpp=0.3)
    return SlideRow("s", str(path))


@pytest.fixture
def run() -> Iterator[None]:
    metrics.start_run("0123abcd")
    yield
    metrics.end_run()


def test_the_seconds_of_a_slide_are_told_part_by_part(bundle_uri: str, row: SlideRow, run: None) -> None:
    scorer = PartScorer({bundle_uri: read_bundle(bundle_uri)}, "cpu", 2, batch_tiles=8)
    spec = TileSpec(mpp=0.5, tile_px=128, min_tissue=0.0, quality=QualityConfig(), stain=StainConfig())
    with open_slide(row.uri, slide_id="s") as slide:
        reference = plan_slide(slide, etag="", spec=spec).stain
    spec = spec.model_copy(update={"stain": StainConfig(reference=reference)})
    headers = [json.loads(scorer(part)["header"][0].as_py()) for part in read_slide(0, row, spec)]
    assert len(headers) == 1
    seconds = headers[0]["stages"]
    assert set(seconds) == set(metrics.PARTS_OF_WORK) - {"stage", "commit"}
    reading = sum(seconds[name] for name in seconds if name not in ("map", "reconstruct", "score", "pictures"))
    assert 0.8 * headers[0]["read_s"] < reading < 1.05 * headers[0]["read_s"]
    for header in headers:
        count_part(header)
    told = metrics.told()
    assert told[metrics.STAGE_SECONDS, ("decode",)] == seconds["decode"] > 0
    assert told[metrics.TILES, ("screen_score",)] == headers[0]["tiles"]
    scored, room = (told[name, ("screen_score",)] for name in (metrics.BATCH_TILES, metrics.BATCH_ROOM))
    assert 0 < scored <= room < scored + 8
    assert told[metrics.GPU_SECONDS, ("screen_score",)] == 0


def test_a_slide_that_fails_tells_what_it_has_taken_until_then(
    row: SlideRow, run: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AccessError("s3://b/s.tif: refused")

    monkeypatch.setattr(slide_reader, "plan_slide", refused)
    (part,) = read_slide(0, row, TileSpec(mpp=0.5, tile_px=128))
    header = json.loads(part["header"][0].as_py())
    count_part(header)
    assert header["reason"] == "no_access"
    assert 0 < metrics.told()[metrics.STAGE_SECONDS, ("stat",)] < header["read_s"]
    assert metrics.told()[metrics.TILES, ("screen_read",)] == 0


def test_a_copy_in_the_slide_cache_is_a_hit(run: None) -> None:
    counts = {"cache_hit": 2, "cache_hit_bytes": 10, "cache_miss": 1, "cache_miss_bytes": 5, "cache_evicted_bytes": 7}
    count_part({"stages": {"stage": 1.5}, "counts": counts})
    told = metrics.told()
    requests = {name: told[metrics.CACHE_REQUESTS, (name,)] for name in ("hit", "miss")}
    n_bytes = {name: told[metrics.CACHE_BYTES, (name,)] for name in ("hit", "miss", "evicted")}
    assert requests == {"hit": 2, "miss": 1}
    assert n_bytes == {"hit": 10, "miss": 5, "evicted": 7}
    assert told[metrics.STAGE_SECONDS, ("stage",)] == 1.5
