"""A worker of a group of two, by itself: `python group_worker.py RANK FILE [CONFIG TILES]`; FILE is where they meet.

With a configuration it trains with the other to the end, on half of the parts, as workers on Ray do; else it takes some
steps on half of a batch.
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from uadray.config import parse_config
from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.trainee import Trainee, alone
from uadray.generators import wgan_gp
from uadray.networks.outline import Networks
from uadray.training.config import TrainConfig
from uadray.training.dataset import training_tiles
from uadray.training.group import any_of_group, average_over_group, take_over_first
from uadray.training.loop import Line, Reached, Step, run_training
from uadray.training.stream import TileStream, read_parts
from uadray.training.subject import build_networks as subject_networks
from uadray.training.subject import build_trainee
from uadray.training.survey import in_threads

CONFIG = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8, kappa=0.5)
GAN = wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=8)
CPU = torch.device("cpu")


def trained_weights(rank: int | None) -> list[float]:
    """An encoder's weights after two steps on a batch: on the first or second half of it, or alone on all of it."""
    torch.manual_seed(0)
    trainee = fanogan.Trainee(CONFIG, build_networks(CONFIG), average=alone if rank is None else average_over_group)
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    for _ in range(2):
        trainee.encoder_step(x if rank is None else x[4 * rank : 4 * rank + 4])
    return _flat(trainee.encoder)


def trained_critic(rank: int | None, *, steps: int = 1) -> list[float]:
    """A critic's weights after a step on a batch; a worker draws its half of the latents that one alone draws.

    The generator is in evaluation mode, for its batch norms know the batch. In float64, for Adam's first step goes by
    the sign of a gradient, and some are nothing but rounding.
    """
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    networks = wgan_gp.networks(GAN, pretrained=False)
    networks["generator"].eval()
    trainee = wgan_gp.Trainee(GAN, networks, average=alone if rank is None else average_over_group)
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    draws = torch.randn, torch.rand
    try:
        if rank is not None:
            torch.randn, torch.rand = (_half(draw, rank) for draw in draws)
        for _ in range(steps):
            trainee.critic_step(x if rank is None else x[4 * rank : 4 * rank + 4])
    finally:
        torch.set_default_dtype(torch.float32)
        torch.randn, torch.rand = draws
    return _flat(trainee.critic)


def _half(draw: Callable[..., Tensor], rank: int) -> Callable[..., Tensor]:
    """What draws the first or second half of twice as many numbers."""
    return lambda n, *more, device=None: draw(2 * n, *more)[n * rank : n * (rank + 1)]


def _flat(network: torch.nn.Module) -> list[float]:
    return [w for p in network.parameters() for w in p.detach().double().flatten().tolist()]


class Member:
    """A host of the loop without Ray, in a group of two."""

    def __init__(self, rank: int) -> None:
        self.rank, self.world = rank, 2

    def any_of(self, flag: bool) -> bool:
        return any_of_group(flag, CPU)

    def agree(self, networks: Networks) -> None:
        take_over_first(networks)

    def at(self, line: Line, step: Step) -> None:
        pass

    def keep(self, trainee: Trainee, reached: Reached) -> None:
        pass


def trained_lines(rank: int, config: TrainConfig, tiles: str) -> list[Line]:
    """The lines of a training of two, whose parts are dealt in turn."""
    read = training_tiles(
        tiles, tiles=config.trained_tiles, input_px=config.input_px, tiles_per_slide=None, label=config.train_label,
        seed=config.seed, survey_each=in_threads,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    networks = subject_networks(config)
    for network in networks.values():
        network.to(memory_format=torch.channels_last)
    trainee = build_trainee(config, networks, average=average_over_group)
    parts = itertools.islice(read_parts(read.source, config), rank, None, 2)
    stream = TileStream(parts, config, blocks_per_pass=99, device=CPU)
    return run_training(config, trainee, stream, Member(rank))


def main(rank: int, where: str, *training: str) -> dict[str, Any]:
    """Join the group, and do what a group does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
    if training:
        config = parse_config(TrainConfig, json.loads(Path(training[0]).read_text()), source=training[0])
        return {"lines": trained_lines(rank, config, training[1])}
    heard = [any_of_group(flag, CPU) for flag in (rank == 1, False)]
    return {"weights": trained_weights(rank), "critic": trained_critic(rank), "heard": heard}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), *sys.argv[2:])))
