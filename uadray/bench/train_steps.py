"""The steps of each generator on tensors that lie ready, without Ray: how fast, and how much memory they take."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from uadray.bench.detector_training import clock
from uadray.config import parse_config
from uadray.detectors.trainee import Trainee
from uadray.training.arithmetic import lowered, quick
from uadray.training.captured import WARM_UP, capture_steps
from uadray.training.config import TrainConfig
from uadray.training.subject import build_networks, build_trainee

SIDES_PX = (64, 128, 256, 512)

GROWN: dict[str, Any] = {"stage_images": 1, "fade_images": 1}
"""Growing ends within the first steps."""

FULL: dict[str, dict[str, Any]] = {
    "dcgan": {}, "wgan_gp": {"width": 64}, "pgan": GROWN, "stylegan": GROWN, "stylegan2": {},
}  # fmt: skip
"""By kind, what differs from the paper's size, which is the default, at 64 px."""

SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"width": 16},
    "wgan_gp": {"width": 8},
    "pgan": GROWN | {"channel_base": 256, "channel_max": 32, "latent_dim": 64},
    "stylegan": GROWN | {"channel_base": 256, "channel_max": 32, "latent_dim": 64, "w_dim": 64},
    "stylegan2": {"channel_base": 256, "channel_max": 32, "latent_dim": 64, "w_dim": 64, "mapping_layers": 2},
}
"""The same of networks for two cores, at 16 px."""
SMALL_PX, SMALL_BATCH = 16, 16

ADA_SIZES: dict[str, Any] = {"ada": {}, "mapping_layers": 2, "path_every": 4, "average_ramp": 0.05}
"""StyleGAN2 from 128 px, as the figures that are published for one V100 have it (StyleGAN2-ADA, its "auto")."""

BATCHES = {"dcgan": 128, "stylegan2": 32}
"""At 64 px; the others have 64."""


@dataclass(frozen=True)
class Variant:
    """How a step is computed.

    Attributes:
        channels_last: the layout of networks and pictures.
        bf16: under autocast.
        captured: as CUDA graphs.
    """

    channels_last: bool = False
    bf16: bool = False
    captured: bool = False


VARIANTS = {
    "plain": Variant(),
    "channels_last": Variant(channels_last=True),
    "bf16": Variant(bf16=True),
    "bf16, channels_last": Variant(channels_last=True, bf16=True),
    "bf16, channels_last, captured": Variant(channels_last=True, bf16=True, captured=True),
}
"""`plain` is float32, as the training's device multiplies it."""


def sized(kind: str, px: int, *, small: bool) -> TrainConfig:
    """A training of a generator, its batch smaller where pictures are large.

    >>> [sized("stylegan2", px, small=False).batch_size for px in SIDES_PX]
    [32, 32, 16, 8]
    """
    sizes = dict(SMALL[kind] if small else FULL[kind])
    if kind == "stylegan2" and px > SIDES_PX[0]:
        sizes |= ADA_SIZES | {"channel_base": 32768 if px >= 512 else 16384}
    values = {
        "name": f"{kind} {px}", "generator": {"kind": kind, "input_px": px} | sizes,
        "batch_size": SMALL_BATCH if small else BATCHES.get(kind, 64) if px == 64 else min(32, 4096 // px),
        "tiles": {"mpp": 1.0, "tile_px": px + px // 2, "min_tissue": 0.0},
    }  # fmt: skip
    return parse_config(TrainConfig, values, source="bench train")


class ReadyLoop:
    """A generator in training, at its full side, on pictures that lie on its device.

    Attributes:
        trainee: the generator.
        cycle: steps after which it does the same again.
    """

    def __init__(self, config: TrainConfig, variant: Variant, device: torch.device) -> None:
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        self.config, self.device = config.model_copy(update={"bf16": variant.bf16}), device
        torch.manual_seed(0)
        networks = build_networks(config)
        for network in networks.values():
            network.to(device).to(memory_format=layout).train()
        self.trainee: Trainee = build_trainee(config, networks)
        self.trainee.counts["images_shown"] = getattr(config.generator, "growing_images", 0)
        self.pictures = [x.contiguous(memory_format=layout) for x in pictures(config, 4, device)]
        self.cycle = cycle_of(config)
        self.trainee.prepare(self.pictures[0])
        if variant.captured:
            capture_steps(self.trainee, device)

    def warm_up(self, *, captured: bool) -> None:
        """Make steps of each kind until what is done once has been done."""
        for _ in range(WARM_UP + 2 if captured else 2):
            if "critic_steps" in self.trainee.counts:
                self.trainee.counts["critic_steps"] = self.cycle - 1
            if "steps" in self.trainee.counts:
                self.trainee.counts["steps"] = 0
            self.run(1)
        self.trainee.counts.update({name: 0 for name in ("critic_steps", "steps") if name in self.trainee.counts})

    def run(self, n: int) -> None:
        """Make n steps, and wait for the last one."""
        with quick(self.device):
            for number in range(n):
                x = self.pictures[number % len(self.pictures)]
                with lowered(self.config, self.device):
                    self.trainee.step(x, 0.5)
                self.trainee.counts["images_shown"] += len(x)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def cycle_of(config: TrainConfig) -> int:
    """Steps after which a generator's training does the same again.

    >>> [cycle_of(sized(kind, 64, small=False)) for kind in ("dcgan", "wgan_gp", "stylegan2")]
    [1, 5, 16]
    """
    lazy = (getattr(config.generator, name, 1) for name in ("r1_every", "path_every", "critic_steps"))
    return max(lazy)


def pictures(config: TrainConfig, n: int, device: torch.device) -> list[Tensor]:
    """N batches of smooth noise in [-1, 1]."""
    rng, px = torch.Generator().manual_seed(0), config.input_px
    coarse = torch.rand(n * config.batch_size, 3, px // 4, px // 4, generator=rng) * 2 - 1
    return [F.interpolate(x, size=(px, px), mode="bilinear").to(device) for x in coarse.split(config.batch_size)]


def timed(loop: ReadyLoop, *, seconds: float, wall: bool) -> float:
    """Images a second over whole cycles that take so many seconds at the least.

    Args:
        loop: warm.
        seconds: of the measurement.
        wall: by the wall clock; else, on a CPU, by CPU time over threads, which leaves other work out.
    """
    now_s = time.perf_counter if wall else clock(loop.device.type)
    began_s, steps = now_s(), 0
    while not steps or now_s() - began_s < seconds:
        loop.run(loop.cycle)
        steps += loop.cycle
    return steps * loop.config.batch_size / (now_s() - began_s)


def measured(config: TrainConfig, name: str, device: torch.device, *, seconds: float) -> dict[str, float]:
    """Images a second of one variant, s per thousand images, seconds until it ran, on a GPU its peak memory."""
    is_cuda, variant = device.type == "cuda", VARIANTS[name]
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    began_s = time.perf_counter()
    loop = ReadyLoop(config, variant, device)
    loop.warm_up(captured=variant.captured)
    begun_s = time.perf_counter() - began_s
    pace = timed(loop, seconds=seconds, wall=is_cuda)
    memory = {"peak_gib": torch.cuda.max_memory_reserved(device) / 2**30} if is_cuda else {}
    return {"images_per_s": pace, "s_per_kimg": 1000 / pace, "begun_s": begun_s} | memory
