"""Epochs in plain torch: going on from a checkpoint is exact, a diverged training ends, and a group acts as one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.config import parse_config
from uadray.detectors.trainee import Trainee
from uadray.networks.outline import Networks
from uadray.training.checkpoint import load_samples, load_state, save_samples, save_state
from uadray.training.config import PREPARE_TILES, TrainConfig
from uadray.training.loop import SAMPLES, DivergedError, Line, Reached, Step, prepare, run_epoch, run_training
from uadray.training.subject import build_networks, build_trainee

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 3, "encoder_fraction": 0.3}
DPA = {"kind": "dpa", "input_px": 16, "width": 4, "halvings": 2, "layers": ["block0"]}
RUN = {"name": "plain", "tiles": {"mpp": 1.0, "tile_px": 32}, "epochs": 4, "steps_per_epoch": 5, "batch_size": 4}


def _config(detector: dict[str, Any], **changes: Any) -> TrainConfig:
    return parse_config(TrainConfig, RUN | {"detector": detector} | changes, source="test")


def _trainee(config: TrainConfig, seed: int) -> Trainee:
    torch.manual_seed(seed)
    return build_trainee(config, build_networks(config))


class Alone:
    """A host that remembers what it is told."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self.steps: list[Line] = []
        self.kept: list[int] = []
        self.agreed = 0

    def any_of(self, flag: bool) -> bool:
        return flag

    def agree(self, networks: Networks) -> None:
        self.agreed += 1

    def at(self, line: Line, step: Step) -> None:
        self.steps.append(line)

    def keep(self, trainee: Trainee, reached: Reached) -> None:
        self.kept.append(len(reached.lines))


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
    lines = [run_epoch(config, first, stream, epoch, host=Alone()) for epoch in range(2)]
    save_state(tmp_path, first.networks, first.optimizers, {"epochs_done": 2, "counts": first.counts})
    save_samples(tmp_path, np.full((SAMPLES, 16, 16, 3), 7, np.uint8))
    lines += [run_epoch(config, first, stream, epoch, host=Alone()) for epoch in (2, 3)]

    second = _trainee(config, seed=2)
    progress = load_state(tmp_path, second.networks, second.optimizers)
    second.counts.update(progress["counts"])
    assert (load_samples(tmp_path) == 7).all()
    stream = _tiles_from(config, config.tiles_taken(progress["epochs_done"]))
    for epoch in (2, 3):
        line = run_epoch(config, second, stream, epoch, host=Alone())
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
            run_epoch(config, trainee, _tiles_from(config, 0), epoch, host=Alone(rank))
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
    host = Alone()
    with pytest.raises(DivergedError, match=said) as caught:
        run_epoch(config, _trainee(config, 1), stream, epoch, host=host)
    steps = [int(line["step"]) for line in host.steps]
    last = steps[-1] if steps else epoch * 20
    assert str(caught.value).startswith(f"training diverged at step {last + 1} of 80 (epoch {epoch}): ")
    assert len(steps) < 19


def test_every_step_says_its_phase_and_so_does_an_epochs_line() -> None:
    config = _config(GAN, epochs=2, steps_per_epoch=5)  # 10 steps, of which the last 3 train the encoder
    host = Alone()
    lines = run_training(config, _trainee(config, 1), _tiles_from(config, 0), host)
    assert [line["phase"] for line in host.steps] == ["prepare", *["gan"] * 7, *["encoder"] * 3]
    assert [line["step"] for line in host.steps] == list(range(11))
    assert [line["phase"] for line in lines] == ["gan", "encoder"]
    assert (host.kept, host.agreed) == ([1, 2], 1)
    assert "izi_f" in lines[1]


def test_images_are_counted_over_all_workers() -> None:
    config = _config(DPA, epochs=2, steps_per_epoch=5)  # batches of 4
    host, trainee = Alone(world=3), _trainee(_config(DPA), 1)
    lines = run_training(config, trainee, _tiles_from(config, 0), host)
    assert [line["images_shown"] for line in lines] == [60, 120]
    assert [line["images_shown"] for line in host.steps[1:4]] == [12, 24, 36]
    assert trainee.counts["images_shown"] == 120


def test_a_training_that_had_reached_its_end_makes_no_step() -> None:
    config = _config(DPA, epochs=2)
    host = Alone()
    reached = Reached([{"epoch": 0}, {"epoch": 1}], torch.zeros(SAMPLES, 3, 16, 16))
    assert run_training(config, _trainee(config, 1), iter(()), host, reached) == reached.lines
    assert host.steps == []
