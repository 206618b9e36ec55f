"""From a diffused image back: by few steps or all, with noise between them or none.

DDIM: Song et al. 2021, https://arxiv.org/abs/2010.02502, section 4. eta 0 is deterministic; eta 1 over all times is the
ancestral sampling of Ho et al. 2020 with the posterior's variance. One step is the prediction of x_0 itself.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.detectors.denoising.schedule import image_of, noise_of

Predict = Callable[[Tensor, int], Tensor]
"""(x_t [n, 3, h, w], t) -> the noise in it, likewise."""

DrawNoise = Callable[[int], Tensor]
"""A time -> noise [3, h, w], the same whenever it is asked for."""


def times_back(level: int, steps: int) -> list[int]:
    """The times that a sampler visits, from `level` to 0.

    >>> times_back(250, 1), times_back(250, 4), times_back(3, 50)
    ([250, 0], [250, 188, 125, 62, 0], [3, 2, 1, 0])
    """
    many = min(steps, level)
    return [round(level * (many - step) / many) for step in range(many + 1)]


def denoised(
    predict: Predict,
    x_t: Float[Tensor, "n 3 h w"],
    times: Sequence[int],
    alpha_bar: Float[Tensor, " times"],
    *,
    eta: float = 0.0,
    draw: DrawNoise | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> Float[Tensor, "n 3 h w"]:
    """x_0 of images x_t (Song et al. 2021, eq. 12).

    What is predicted of x_0 is clipped to [-1, 1] at every step, and the noise told from it anew, as in the code of Ho
    et al. 2020: a picture has no other values.

    Args:
        predict: the network.
        x_t: at the first of the times.
        times: descending, the last of them 0.
        alpha_bar: by time, on the images' device.
        eta: share of the posterior's deviation that is drawn at each step.
        draw: the noise of a time, where eta is not 0; the same for all images.
        after_step: is called after each step.
    """
    shares = alpha_bar.to(x_t.dtype)
    for time, before in pairwise(times):
        after, earlier = shares[time : time + 1], shares[before : before + 1]
        x = image_of(x_t, predict(x_t, time), after).clamp(-1, 1)
        if before == 0:
            x_t = x
        else:
            noise = noise_of(x_t, x, after)
            sigma = eta * ((1 - earlier) / (1 - after) * (1 - after / earlier)).sqrt()  # eq. 16
            x_t = earlier.sqrt() * x + (1 - earlier - sigma.square()).clamp_min(0).sqrt() * noise
            if eta and draw is not None:
                x_t = x_t + sigma * draw(before)
        after_step()
    return x_t


def time_of(t: Tensor, steps: int) -> Tensor:
    """Times 0 to `steps` as the network takes them, 0 to 1000 whatever the number of steps."""
    return t.to(torch.float32) * (1000 / steps)
