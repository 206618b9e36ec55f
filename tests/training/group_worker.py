"""A worker of a group of two, by itself: `python group_worker.py RANK FILE`; FILE is where the two meet."""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist

from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.trainee import alone
from uadray.training.group import any_of_group, average_over_group

CONFIG = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8, kappa=0.5)


def trained_weights(rank: int | None) -> list[float]:
    """An encoder's weights after two steps on a batch: on the first or second half of it, or alone on all of it."""
    torch.manual_seed(0)
    trainee = fanogan.Trainee(CONFIG, build_networks(CONFIG), average=alone if rank is None else average_over_group)
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    for _ in range(2):
        trainee.encoder_step(x if rank is None else x[4 * rank : 4 * rank + 4])
    return [w for p in trainee.encoder.parameters() for w in p.detach().double().flatten().tolist()]


def main(rank: int, where: str) -> dict[str, Any]:
    """Join the group, and do what a group does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
    heard = [any_of_group(flag, torch.device("cpu")) for flag in (rank == 1, False)]
    return {"weights": trained_weights(rank), "heard": heard}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2])))
