"""How many replicas there are: one decision for the whole application, which Serve asks for every moment.

    SlideStage        as many as the slide jobs need that wait or are at work
    stages that score  the larger of two: what those slides need, by the ratio of the deployments' maxima,
                       and what their own requests need
    Ingress, ViewStage  what their requests need

Each stays between its least and its most, and waits as its `autoscaling_config` says; Serve sees to both. The policy is
named in the deployment file (`autoscaling_policy`), since only Serve's declarative interface takes one.
"""

import math
from collections.abc import Mapping
from typing import Any

SLIDE_STAGE = "SlideStage"

SCORING = ("MapStage", "ReconstructStage", "ScoreStage", "AllStages")

WANTED = "slide_replicas"
"""The metric under which replicas report how many of `SlideStage` the jobs need that wait or are at work."""


def follow_slides(contexts: Mapping[Any, Any]) -> tuple[dict[Any, float], dict[Any, dict[str, Any]]]:
    """Replicas wanted of each deployment, by its id; a policy of Serve.

    Args:
        contexts: Serve's `AutoscalingContext` of each deployment that scales, by its id.
    """
    slides = replicas_of_slides(contexts)
    stages = [context for context in contexts.values() if context.deployment_name == SLIDE_STAGE]
    most_slides = max([1, *(context.capacity_adjusted_max_replicas for context in stages)])
    wanted: dict[Any, float] = {}
    for key, context in contexts.items():
        if context.deployment_name == SLIDE_STAGE:
            wanted[key] = context.target_num_replicas if slides is None else slides
            continue
        wanted[key] = by_requests(context)
        if context.deployment_name in SCORING:
            share = min(slides or 0, most_slides) / most_slides
            wanted[key] = max(wanted[key], math.ceil(share * context.capacity_adjusted_max_replicas))
    return wanted, {}


def replicas_of_slides(contexts: Mapping[Any, Any]) -> int | None:
    """Replicas of `SlideStage` that the jobs need, as who looked last saw them; None where nobody has told yet."""
    told = [
        series[-1]
        for context in contexts.values()
        for series in ((context.raw_metrics or {}).get(WANTED) or {}).values()
        if series
    ]
    return int(max(told, key=lambda value: value.timestamp).value) if told else None


def by_requests(context: Any) -> float:
    """Replicas that the requests of a deployment need: those at work and those that wait, so many a replica."""
    return float(context.total_num_requests / context.config.get_target_ongoing_requests())
