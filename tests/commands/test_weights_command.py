"""`uadray weights verify`: which states of the cache are faults."""

from pathlib import Path

import pytest
from command_line import answer, run

from uadray.networks import weights


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    """The environment of a command with an empty cache of weights."""
    return {"UADRAY_CACHE": str(tmp_path)}


def test_missing_weights_are_a_fault_only_where_they_are_named(cache: dict[str, str]) -> None:
    done = run("weights", "verify", env=cache)
    assert (done.returncode, answer(done)["vgg16"]) == (0, "missing")
    named = run("weights", "verify", "vgg16", env=cache)
    assert (named.returncode, answer(named)) == (1, {"vgg16": "missing"})


def test_the_list_has_a_line_for_each(cache: dict[str, str]) -> None:
    lines = run("weights", "list", env=cache).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [entry.name for entry in weights.registry()]
