"""`bench serve`: that each goal that was missed counts, and that what is watched is counted right."""

from dataclasses import replace
from typing import Any

import pytest

from uadray.bench import serve, serve_kills, serve_overload, serve_scale
from uadray.bench.endpoint import deployment
from uadray.bench.http_load import BROKEN, Outcome
from uadray.bench.serve_material import Material, npz_request, tiles
from uadray.config import parse_config
from uadray.detectors.bundle import Bundle
from uadray.errors import InputError
from uadray.serving.deployment_file import DeploymentFile

GOOD = Outcome(at_s=1.0, seconds=0.1, status=200)
FULL = Outcome(at_s=1.0, seconds=0.1, status=429, retry_after="1")


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(InputError, match="no part kill; there are: latency, slides, load, scale, kills"):
        serve.run(only=["kill"])


def test_every_part_measures_and_has_goals() -> None:
    for part in serve.PARTS:
        module = serve._module(part)
        assert callable(module.run)
        assert module.GOALS


def test_what_is_deployed_is_a_file_that_uadray_serve_takes() -> None:
    place = Material("s3://bucket", Bundle.model_construct(), folder=None)  # type: ignore[arg-type]
    arguments = place.arguments("out", slide={"replicas": 0, "max_replicas": 2, "cpus": 0})
    file = parse_config(DeploymentFile, deployment(8000, arguments, serve_scale.OPTIONS), source="test")
    assert (file.args.out, file.args.default_bundle) == ("s3://bucket/out", "a")


@pytest.mark.parametrize(
    ("outcome", "phase", "is_allowed"),
    [
        (GOOD, "score", True),
        (FULL, "score", True),
        (replace(FULL, status=503), "ingress", True),
        (replace(FULL, status=503, retry_after=""), "ingress", False),
        (replace(GOOD, status=500), "ingress", False),
        (replace(GOOD, status=BROKEN), "proxy", True),
        (replace(GOOD, status=BROKEN), "ingress", False),
    ],
)
def test_how_tile_requests_may_end(outcome: Outcome, phase: str, is_allowed: bool) -> None:
    assert serve_kills.is_allowed(outcome, phase) is is_allowed


class Watched:
    """In the place of what looks at memory."""

    def __init__(self, peak: float) -> None:
        self._growth = {"Ingress": {"before": 100.0, "peak": peak, "late": 1.0}}

    def growth_mb(self) -> dict[str, dict[str, float]]:
        return self._growth


def report(*sent: Outcome, peak: float = 10.0, recovery_s: float = 0.2, lost: int = 0) -> dict[str, Any]:
    recovery = {"seconds": recovery_s}
    return serve_overload._report(5.0, [GOOD], list(sent), 0, Watched(peak), recovery, lost=lost)  # type: ignore[arg-type]


def test_an_overload_is_answered_with_what_is_allowed() -> None:
    figures = report(GOOD, FULL)
    assert figures["met"]
    assert figures["under_load"]["statuses"] == {"200": 1, "429": 1}
    assert not report(GOOD, replace(GOOD, status=500))["met"]
    assert not report(GOOD, replace(FULL, retry_after=""))["met"]
    assert not report(GOOD, peak=5000.0)["met"]
    assert not report(GOOD, recovery_s=30.0)["met"]
    assert not report(GOOD, lost=1)["met"]


def test_the_request_has_the_tiles() -> None:
    request = npz_request(tiles(3, 32))
    assert len(request.body) > 3 * 32 * 32 * 3
    assert ("Content-Type", "application/x-npz") in request.headers


METRICS = """
ray_serve_deployment_replica_healthy{application="uadray",deployment="SlideStage",replica="a"} 1.0
ray_serve_deployment_replica_healthy{application="uadray",deployment="SlideStage",replica="b"} 1.0
ray_serve_deployment_replica_healthy{application="uadray",deployment="AllStages",replica="c"} 1.0
"""


def test_replicas_are_counted_from_rays_metrics() -> None:
    assert serve_scale.replicas_of(METRICS) == {"SlideStage": 2, "AllStages": 1}
