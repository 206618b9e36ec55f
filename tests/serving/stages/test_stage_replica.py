"""What a replica of a stage counts: every tile once, how full its batches were, and the tiles that it failed at."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from uadray import metrics
from uadray.detectors.bundle import load_detector
from uadray.detectors.detector import Detector
from uadray.detectors.stage_clock import StageClock, clocked
from uadray.serving.scores import Wanted
from uadray.serving.stages.stage_replica import WORK, Kind, computed
from uadray.tiles.images import Pixels


@pytest.fixture
def run() -> Iterator[None]:
    metrics.start_run("serve-0", kind="serve")
    yield
    metrics.end_run()


@pytest.fixture(scope="module")
def detector(bundles: dict[str, str]) -> Detector:
    return load_detector(bundles["fanogan"])


def counted(name: str, **labels: str) -> float:
    return metrics.told()[name, tuple(labels.values())]


@pytest.mark.usefixtures("run")
def test_all_stages_count_as_one_and_their_seconds_by_stage(detector: Detector, pixels: Pixels) -> None:
    clock = StageClock()
    timed = clocked(detector, clock)
    computed(WORK["AllStages"], timed, [(pixels, Wanted()), (pixels[:5], Wanted())], clock)
    computed(WORK["AllStages"], timed, [(pixels[:4], Wanted())], clock)
    n, of = len(pixels) + 5 + 4, {"stage": "serve_score"}
    assert counted(metrics.TILES, **of) == counted(metrics.BATCH_TILES, **of) == n
    assert counted(metrics.BYTES, **of) == n * pixels[0].nbytes
    assert counted(metrics.BATCH_ROOM, **of) == (2 + 1) * detector.batch_tiles
    assert counted(metrics.ERRORS, **of) == counted(metrics.GPU_SECONDS, **of) == 0
    by_stage = [counted(metrics.STAGE_SECONDS, stage=stage) for stage in ("map", "reconstruct", "score")]
    assert min(by_stage) > 0
    assert sum(by_stage) < counted(metrics.SECONDS, **of)
    assert counted(metrics.TILES, stage="serve_map") == 0


@pytest.mark.usefixtures("run")
def test_each_stage_of_a_chain_counts_its_own(detector: Detector, pixels: Pixels) -> None:
    def stage(kind: Kind, *arguments: Any) -> Any:
        return computed(WORK[kind], detector, [arguments], StageClock())[0]

    z = stage("MapStage", pixels)
    stage("ScoreStage", pixels, stage("ReconstructStage", z), z, Wanted())
    for name in ("serve_map", "serve_reconstruct", "serve_score"):
        assert counted(metrics.TILES, stage=name) == len(pixels)
    assert counted(metrics.BYTES, stage="serve_reconstruct") == z.nbytes


@pytest.mark.usefixtures("run")
def test_tiles_of_a_call_that_fails_are_errors(detector: Detector, pixels: Pixels) -> None:
    with pytest.raises(RuntimeError, match="multiplied"):
        computed(WORK["ReconstructStage"], detector, [(np.zeros((3, 5), np.float32),)], StageClock())
    assert counted(metrics.ERRORS, stage="serve_reconstruct") == 3
    assert counted(metrics.TILES, stage="serve_reconstruct") == 0
