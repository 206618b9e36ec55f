"""Workers of a group agree: gradients are averaged, and what one says all hear."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from group_worker import CONFIG, trained_critic, trained_weights

from uadray.detectors.building import build_networks

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes say that have half of a batch each."""
    where = tmp_path_factory.mktemp("group") / "meeting"
    command = [sys.executable, str(Path(__file__).with_name("group_worker.py"))]
    started = [subprocess.Popen([*command, str(rank), str(where)], stdout=subprocess.PIPE) for rank in (0, 1)]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(text.splitlines()[-1]) for text in said]


def test_two_workers_learn_what_one_with_twice_the_batch_does(group: list[dict[str, Any]]) -> None:
    first, second = (np.array(found["weights"]) for found in group)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, trained_weights(None), rtol=0, atol=2e-6)
    torch.manual_seed(0)
    untrained = torch.cat([p.detach().flatten() for p in build_networks(CONFIG)["encoder"].parameters()])
    assert np.abs(first - untrained.numpy()).mean() > 5e-5, "two steps of Adam at 1e-4"


def test_two_critics_learn_what_one_with_twice_the_batch_does(group: list[dict[str, Any]]) -> None:
    """WGAN-GP, each with its half of the latents and of the points between real and fake."""
    first, second = (np.array(found["critic"]) for found in group)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, trained_critic(None), rtol=0, atol=1e-9)
    assert np.abs(first - np.array(trained_critic(None, steps=0))).mean() > 5e-5, "a step of Adam at 1e-4"


def test_what_one_worker_says_all_hear(group: list[dict[str, Any]]) -> None:
    assert [found["heard"] for found in group] == [[True, False], [True, False]]
