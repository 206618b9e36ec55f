"""Pictures of a trained generator: drawn ones, and those on the way from one to the next.

The networks are moved to the device and left in evaluation mode.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.generators.catalog import GeneratorConfig, file_of
from uadray.networks.outline import Networks

BLOCK = 256
"""Latents that are drawn at a time, whatever the batch: so a picture follows from the seed and its number alone."""


def drawn(
    config: GeneratorConfig, networks: Networks, n: int, *, seed: int, truncation: float = 1.0, batch: int = 32,
    device: str | torch.device = "cpu",
) -> Iterator[Float[Tensor, "b 3 h w"]]:  # fmt: skip
    """Pictures in [-1, 1] on the device, n in all, `batch` at a time or fewer.

    The first k of n are those of a run that draws k.

    Args:
        config: of the generator.
        networks: of it, trained.
        n: how many.
        seed: of the latents.
        truncation: towards the mean style; 1 for none.
        batch: how many at a time, `BLOCK` at most.
        device: to draw on.

    Raises:
        InputError: `truncation` is given to a generator that cannot.
    """
    rng = torch.Generator().manual_seed(seed)
    _place(networks, device)
    for first in range(0, n, BLOCK):
        block = file_of(config).latents(config, BLOCK, rng=rng)[: n - first]
        for z in block.split(batch):
            yield _of(config, networks, _styles(config, networks, z.to(device), truncation))


def interpolated(
    config: GeneratorConfig, networks: Networks, *, seed: int, steps: int, stops: int = 4, truncation: float = 1.0,
    device: str | torch.device = "cpu",
) -> Iterator[Float[Tensor, "steps 3 h w"]]:  # fmt: skip
    """Pictures on the way through `stops` of `drawn`'s and back to the first, `steps` from each to the next.

    Latents z are led along great circles (White 2016, https://arxiv.org/abs/1609.04468, section 2.1), for on the chord
    between two draws of a high-dimensional normal lie vectors shorter than any draw; styles of W along straight lines
    (Karras et al. 2019, section 4.1).

    Yields:
        One stretch at a time, on the device: it begins with the picture of a stop, and ends before the next.
    """
    rng = torch.Generator().manual_seed(seed)
    _place(networks, device)
    z = file_of(config).latents(config, BLOCK, rng=rng)[:stops].to(device)
    styles = _styles(config, networks, z, truncation)
    way = slerp if styles.ndim == 2 else torch.lerp
    t = torch.arange(steps, device=styles.device, dtype=styles.dtype) / steps
    t = t.view(-1, *[1] * (styles.ndim - 1))
    for a, b in zip(styles, styles.roll(-1, 0), strict=True):
        yield _of(config, networks, way(a.expand(steps, *a.shape), b.expand(steps, *b.shape), t))


def slerp(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], t: Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
    """From a (t = 0) to b (t = 1) at a constant angular speed; straight where their directions are the same.

    >>> slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5]]))
    tensor([[1.4142, 1.4142]])
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)[:, None]
    angle, sine = cosine.acos(), (1 - cosine**2).sqrt()
    curved = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine.clamp_min(1e-6)
    return torch.where(sine < 1e-4, torch.lerp(a, b, t), curved)


def _place(networks: Networks, device: str | torch.device) -> None:
    for network in networks.values():
        network.to(device).eval()


@torch.no_grad()
def _styles(config: GeneratorConfig, networks: Networks, z: Tensor, truncation: float) -> Tensor:
    return file_of(config).styles(config, networks, z, truncation=truncation)


@torch.no_grad()
def _of(config: GeneratorConfig, networks: Networks, styles: Tensor) -> Tensor:
    return file_of(config).pictures(config, networks, styles)
