"""What Optuna is asked: every trial another configuration, and the same ones when a search goes on."""

from typing import Any

import optuna
from tune_searches import search_of

from uadray.training.tune import SeededByTrial, assignment_of, distributions, params_of

SMALL = search_of(
    {"detector.latent_channels": [1, 4], "layer": [{"detector.layers": [name]} for name in ("a", "b", "c")]}
)
MIXED = search_of({"detector.width": {"low": 4, "high": 64, "log": True}, "epochs": [1, 2],
                   "detector.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})  # fmt: skip


def _asked(config: Any, n: int, *, told: int = 0, seed: int = 3) -> list[dict[str, Any]]:
    """The assignments of `n` trials of which the first `told` are told, as when a search goes on."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = distributions(config)
    study = optuna.create_study(direction="maximize", sampler=SeededByTrial(seed, 3, space))
    for assignment in _asked(config, told, seed=seed) if told else ():
        study.enqueue_trial(params_of(config, assignment))
    found = []
    for _ in range(n):
        trial = study.ask(fixed_distributions=space)
        found.append(assignment_of(config, trial.params))
        study.tell(trial, sum(len(str(value)) for value in trial.params.values()) / 100)
    return found


def test_a_small_space_is_gone_through_without_repetition() -> None:
    points = _asked(SMALL, 6)
    assert len({repr(sorted(point.items())) for point in points}) == 6
    assert {point["layer"]["detector.layers"][0] for point in points} == {"a", "b", "c"}
    assert len(_asked(SMALL, 8)) == 8  # none is left, and none is refused


def test_a_search_that_goes_on_draws_what_it_would_have_drawn() -> None:
    whole = _asked(MIXED, 9)
    assert all(_asked(MIXED, 9, told=told) == whole for told in (1, 4, 8))
    assert _asked(MIXED, 9, seed=4) != whole
    widths = {point["detector.width"] for point in whole}
    assert len(widths) > 3
    assert all(isinstance(width, int) and 4 <= width <= 64 for width in widths)
