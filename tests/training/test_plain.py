"""Epochs in plain torch: going on from a checkpoint is exact, a diverged training ends, and a group acts as one."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training.group_worker import CONFIG, trained_weights

from uadray.config import parse_config
from uadray.detectors.catalog import build_networks, build_trainee
from uadray.detectors.trainee import Trainee
from uadray.training.checkpoint import load_samples, load_state, save_samples, save_state
from uadray.training.config import PREPARE_TILES, TrainConfig
from uadray.training.plain import SAMPLES, DivergedError, prepare, run_epoch
from uadray.training.worker import interface_of

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 3, "encoder_fraction": 0.3}
DPA = {"kind": "dpa", "input_px": 16, "width": 4, "halvings": 2, "layers": ["block0"]}
RUN = {"name": "plain", "tiles": {"mpp": 1.0, "tile_px": 32}, "epochs": 4, "steps_per_epoch": 5, "batch_size": 4}


def _config(detector: dict[str, Any], **changes: Any) -> TrainConfig:
    return parse_config(TrainConfig, RUN | {"detector": detector} | changes, source="test")


def _trainee(config: TrainConfig, seed: int) -> Trainee:
    torch.manual_seed(seed)
    return build_trainee(config.detector, build_networks(config.detector))


def _tiles_from(config: TrainConfig, first: int) -> Iterator[Tensor]:
    """All tiles of a training in their order, batch by batch, from a place on."""
    assert first % config.batch_size == 0
    for number in range(first // config.batch_size, 10**6):
        yield torch.rand(config.batch_size, 3, 16, 16, generator=torch.Generator().manual_seed(number)) * 2 - 1


@pytest.mark.parametrize("detector", [GAN, DPA])
def test_going_on_from_a_checkpoint_is_the_training_that_was_never_stopped(
    detector: dict[str, Any], tmp_path: Path
) -> None:
    """To the bit: weights, which step trains the generator, latents, tiles, and the tiles that are shown."""
    config = _config(detector)
    first = _trainee(config, seed=1)
    stream = _tiles_from(config, 0)
    samples = prepare(first, stream)
    assert len(samples) == SAMPLES
    assert config.tiles_taken(0) == PREPARE_TILES
    lines = [run_epoch(config, first, stream, epoch) for epoch in range(2)]
    save_state(tmp_path, first.networks, first.optimizers, {"epochs_done": 2, "counts": first.counts})
    save_samples(tmp_path, np.full((SAMPLES, 16, 16, 3), 7, np.uint8))
    lines += [run_epoch(config, first, stream, epoch) for epoch in (2, 3)]

    second = _trainee(config, seed=2)
    progress = load_state(tmp_path, second.networks, second.optimizers)
    second.counts.update(progress["counts"])
    assert (load_samples(tmp_path) == 7).all()
    stream = _tiles_from(config, config.tiles_taken(progress["epochs_done"]))
    for epoch in (2, 3):
        line = run_epoch(config, second, stream, epoch)
        pace = {"seconds", "waiting", "tiles_per_second"}
        assert {k: v for k, v in line.items() if k not in pace} == {
            k: v for k, v in lines[epoch].items() if k not in pace
        }
    for name, network in first.networks.items():
        for key, t in network.state_dict().items():
            assert torch.equal(t, second.networks[name].state_dict()[key]), (name, key)


def test_workers_and_epochs_have_random_numbers_of_their_own() -> None:
    config = _config(GAN)
    drawn = set()
    for rank in (0, 1):
        for epoch in (0, 1):
            trainee = _trainee(config, seed=1)
            run_epoch(config, trainee, _tiles_from(config, 0), epoch, rank=rank)
            drawn.add(torch.rand(1).item())
    assert len(drawn) == 4


@pytest.mark.parametrize(
    ("detector", "rate", "epoch", "said"),
    [
        (DPA, "learning_rate", 0, r"perceptual, loss is not finite; lower detector\.learning_rate \(now 1e\+30\)"),
        (GAN, "gan_learning_rate", 0, r"is not finite; lower detector\.gan_learning_rate \(now 1e\+30\)"),
        (GAN, "encoder_learning_rate", 3, r"izi_f is not finite; lower detector\.encoder_learning_rate \(now 1e\+30\)"),
    ],
)
def test_a_diverged_training_ends_at_its_step_and_says_what_to_lower(
    detector: dict[str, Any], rate: str, epoch: int, said: str
) -> None:
    config = _config(detector, steps_per_epoch=20)
    config = config.model_copy(update={"detector": config.detector.model_copy(update={rate: 1e30})})  # at once
    stream = _tiles_from(config, 0)
    steps: list[int] = []
    with pytest.raises(DivergedError, match=said) as caught:
        run_epoch(config, _trainee(config, 1), stream, epoch, each=lambda _, step: steps.append(step))
    last = steps[-1] if steps else epoch * 20
    assert str(caught.value).startswith(f"training diverged at step {last + 1} of 80 (epoch {epoch}): ")
    assert len(steps) < 19


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


def test_what_one_worker_says_all_hear(group: list[dict[str, Any]]) -> None:
    assert [found["heard"] for found in group] == [[True, False], [True, False]]


def test_the_interface_of_an_address() -> None:
    names = {name for _, name in socket.if_nameindex()}
    assert interface_of("127.0.0.1") in names
    assert interface_of("203.0.113.77") is None, "an address of documentation: nobody's"
