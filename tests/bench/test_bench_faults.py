"""`bench faults`, `nodes` and `partition` without their cluster: what they count, and what they refuse."""

import pytest

from uadray.bench import faults, index, nodes, partition
from uadray.bench.faults import SCENARIOS
from uadray.errors import InputError

GOOD = {
    "lost": 0, "doubled": 0, "wrongly_failed": 0, "lines": 20, "longest_silence_s": 30.0, "ended": True,
    "exit_status": 0, "has_traceback": False,
}  # fmt: skip


@pytest.mark.parametrize("bench", [nodes, faults, partition])
def test_without_its_tools_a_bench_says_so(bench: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    figures = bench.run()  # type: ignore[attr-defined]
    assert figures["goals_met"] is None
    assert "root" in figures["skipped"] or "iproute2" in figures["skipped"]


@pytest.mark.parametrize(
    ("name", "figures", "goals"),
    [
        ("0", {}, []),
        ("0", {"lost": 1, "doubled": 2, "wrongly_failed": 3}, ["lost", "doubled", "wrongly_failed"]),
        ("0", {"lines": 21, "longest_silence_s": 30.1}, ["lines", "longest_silence_s"]),
        ("0", {"ended": False, "exit_status": None}, ["ended", "exit_status"]),
        ("0", {"has_traceback": True}, ["no_traceback"]),
        ("a", {"exit_status": 1, "killer": "crashed", "strikes": 2, "is_named": True}, []),
        ("a", {"exit_status": 1, "killer": None, "strikes": 0}, ["killer", "fault_happened"]),
        ("b", {"is_named": False}, ["is_named"]),
        ("f", {}, ["fault_happened"]),
        ("f", {"fault_after_s": 9.0}, []),
        ("g", {"exit_status": 1, "fault_after_s": 9.0, "head_lost_to_end_s": 61.0, "rerun": {"exit_status": 1}},
         ["head_lost_to_end_s", "rerun"]),
    ],
)  # fmt: skip
def test_goals_that_are_missed_are_named(name: str, figures: dict[str, object], goals: list[str]) -> None:
    assert faults.missed(SCENARIOS[name], GOOD | figures) == goals


@pytest.mark.parametrize(
    ("name", "only", "what"), [("nodes", "a", "takes no --only"), ("faults", "a,z", "no scenario z")]
)
def test_scenarios_that_there_are_not_are_refused(name: str, only: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        index.run(name, only=only.split(","))
