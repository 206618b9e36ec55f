"""How many replicas are wanted, on made-up contexts of Serve, alone and as Serve applies it."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.autoscaling_policy import _apply_app_level_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from uadray.serving.scaling import WANTED, follow_slides, replicas_of_slides


def told(**replicas: tuple[float, float]) -> dict[str, Any]:
    """What replicas have told, each a time and a number of slides, after an older, larger number."""
    series = {
        name: [SimpleNamespace(timestamp=0.0, value=99.0), SimpleNamespace(timestamp=when, value=slides)]
        for name, (when, slides) in replicas.items()
    }
    return {WANTED: series}


def context(
    name: str, *, least: int = 1, most: int = 1, now: int = 1, requests: float = 0, metrics: Any = None,
    at: float = 0.0, state: Any = None,
) -> AutoscalingContext:  # fmt: skip
    return AutoscalingContext(
        deployment_id=name, deployment_name=name, app_name="uadray", current_num_replicas=now, target_num_replicas=now,
        running_replicas=[], total_num_requests=requests, total_queued_requests=0, aggregated_metrics={},
        raw_metrics=metrics or {}, capacity_adjusted_min_replicas=least, capacity_adjusted_max_replicas=most,
        policy_state=state or {}, last_scale_up_time=None, last_scale_down_time=None, current_time=at,
        config=AutoscalingConfig(
            min_replicas=least, max_replicas=most, target_ongoing_requests=2, upscale_delay_s=0, downscale_delay_s=60
        ),
    )  # fmt: skip


def app(slides: float | None, *, now: int = 0, requests: float = 0) -> dict[str, AutoscalingContext]:
    """Sixteen slides at most, and stages that can be eight, four and two."""
    metrics = None if slides is None else told(a=(5.0, slides))
    contexts = [
        context("Ingress", metrics=metrics),
        context("SlideStage", least=0, most=16, now=now),
        context("MapStage", most=8, requests=requests),
        context("ReconstructStage", least=0, most=4, now=0),
        context("ScoreStage", most=2),
        context("ViewStage", most=4, requests=5),
    ]
    return {each.deployment_name: each for each in contexts}


@pytest.mark.parametrize(
    ("slides", "requests", "wanted"),
    [
        (0, 0, {"SlideStage": 0, "MapStage": 0, "ReconstructStage": 0, "ScoreStage": 0}),
        (1, 0, {"SlideStage": 1, "MapStage": 1, "ReconstructStage": 1, "ScoreStage": 1}),
        (8, 0, {"SlideStage": 8, "MapStage": 4, "ReconstructStage": 2, "ScoreStage": 1}),
        (8, 11, {"SlideStage": 8, "MapStage": 5.5, "ReconstructStage": 2, "ScoreStage": 1}),
        (50, 0, {"SlideStage": 50, "MapStage": 8, "ReconstructStage": 4, "ScoreStage": 2}),
        (0, 6, {"SlideStage": 0, "MapStage": 3, "ReconstructStage": 0, "ScoreStage": 0}),
    ],
)
def test_slides_and_requests(slides: float, requests: float, wanted: dict[str, float]) -> None:
    decided, state = follow_slides(app(slides, requests=requests))
    assert {name: decided[name] for name in wanted} == wanted
    assert (decided["Ingress"], decided["ViewStage"]) == (0, 2.5)
    assert state == {}


def test_as_long_as_nobody_has_told_the_slides_replicas_stay() -> None:
    assert follow_slides(app(None, now=3))[0]["SlideStage"] == 3


def test_who_looked_last_is_believed() -> None:
    contexts = {
        "Ingress": context("Ingress", metrics=told(a=(3.0, 7), b=(9.0, 2))),
        "SlideStage": context("SlideStage", metrics=told(c=(8.0, 5))),
    }
    assert replicas_of_slides(contexts) == 2


def test_one_process_with_all_stages_follows_too() -> None:
    contexts = {
        "Ingress": context("Ingress", metrics=told(a=(1.0, 2))),
        "SlideStage": context("SlideStage", least=0, most=2, now=0),
        "AllStages": context("AllStages", most=2),
    }
    assert follow_slides(contexts)[0] == {"Ingress": 0, "SlideStage": 2, "AllStages": 2}


def test_serve_scales_up_from_none_at_once_and_down_after_its_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time=lambda: 0.0)
    monkeypatch.setattr("ray.serve.autoscaling_policy.time", clock)
    policy = _apply_app_level_autoscaling_config(follow_slides)
    decided, state = policy(app(16))
    assert decided["SlideStage"] == 16
    contexts = app(0, now=16)
    decided, state = policy(contexts)
    assert decided["SlideStage"] == 16
    clock.time = lambda: 61.0
    contexts["SlideStage"].policy_state = state["SlideStage"]
    assert policy(contexts)[0]["SlideStage"] == 1  # and from one to none after as long again
