"""How the CPUs and GPUs of a cluster are shared between reading and scoring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.cluster.workers import READ_CPUS, SCORE_CPUS, StreamConfig, plan_workers
from uadray.errors import InputError


@pytest.mark.parametrize(
    ("values", "n_cpus", "expected"),
    [
        ({}, 2, (1, 2)),
        ({}, 3, (1, 3)),
        ({}, 16, (8, 2)),
        ({}, 17, (8, 2)),
        ({"score_workers": 3}, 16, (3, 5)),
        ({"score_workers": 15}, 16, (15, 1)),
        ({"threads": 1}, 16, (8, 1)),
        ({"score_workers": 1, "threads": 7}, 2, (1, 7)),
        ({"score_workers": 2}, 2, (2, 1)),  # an actor holds a tenth of a CPU
    ],
)
def test_by_hand(values: dict[str, int], n_cpus: int, expected: tuple[int, int]) -> None:
    assert plan_workers(StreamConfig(**values), n_cpus) == expected


@pytest.mark.parametrize(("n_nodes", "n_cpus", "workers"), [(2, 2, 1), (2, 3, 2), (3, 3, 2), (3, 6, 3), (3, 48, 24)])
def test_each_node_has_a_scorer_where_cpus_allow(n_nodes: int, n_cpus: int, workers: int) -> None:
    assert plan_workers(StreamConfig(), n_cpus, n_nodes=n_nodes)[0] == workers


@pytest.mark.parametrize(
    ("gpus", "n_cpus", "n_gpus", "workers"), [(1, 64, 4, 4), (0.5, 64, 4, 8), (1, 64, 1, 1), (2, 64, 8, 4)]
)
def test_actors_are_as_many_as_gpus_have_room_for(gpus: float, n_cpus: int, n_gpus: float, workers: int) -> None:
    assert plan_workers(StreamConfig(gpus=gpus), n_cpus, n_gpus=n_gpus)[0] == workers


@pytest.mark.parametrize(("gpus", "n_gpus", "workers"), [(1, 0, None), (2, 1, None), (1, 4, 5)])
def test_more_gpus_than_there_are_is_refused(gpus: float, n_gpus: float, workers: int | None) -> None:
    with pytest.raises(InputError, match=f"need more than the {n_gpus:g} GPUs of this cluster"):
        plan_workers(StreamConfig(gpus=gpus, score_workers=workers), 64, n_gpus=n_gpus)


@pytest.mark.parametrize(
    ("workers", "n_cpus", "expected"),
    [
        (12, 2, "score_workers 12 on 2 CPUs leaves none for reading slides; use at most 11"),
        (152, 16, "use at most 151"),
        (None, 1, "start Ray with at least 2 CPUs"),
        (1, 1, "start Ray with at least 2 CPUs"),
    ],
)
def test_a_plan_without_a_reader_is_refused(workers: int | None, n_cpus: int, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        plan_workers(StreamConfig(score_workers=workers), n_cpus)


@given(workers=st.none() | st.integers(1, 300), n_cpus=st.integers(1, 256))
def test_whatever_is_planned_leaves_room_for_a_reader(workers: int | None, n_cpus: int) -> None:
    try:
        actors, threads = plan_workers(StreamConfig(score_workers=workers), n_cpus)
    except InputError:
        assert n_cpus < 2 or SCORE_CPUS * (workers or 1) + READ_CPUS > n_cpus
        return
    assert SCORE_CPUS * actors + READ_CPUS <= n_cpus + 1e-9
    assert threads >= 1
    assert actors * threads <= max(n_cpus, actors)
