"""The most probable normal image close to a given one, found by gradient ascent in the image itself.

Chen et al. 2020, https://arxiv.org/abs/2005.00031 , the longer version of You et al. 2019. With a prior of normal
images, whose ELBO stands for log p(x'), and a total variation that penalises how x' differs from x:

    maximise  ELBO(x') - lambda TV(x' - x)  over x', from x' = x, by steps along the gradient

As in the authors' code (Unsupervised-Lesion-Detection-via-Image-Restoration-with-a-Normative-Prior of yousuhang on
GitHub): plain gradient ascent, with a step size that is lowered to 0.4 of itself after the first fifth of the steps
(there 5e-3 and 2e-3, 500 steps in all); TV is anisotropic with its subgradient; z is drawn anew in each step.

Different: the objective is 2 sigma^2 ELBO - lambda TV, sigma^2 being the variance of x that the decoder has learned: so
that |x' - x_hat|^2 has weight 1, as in their code, and step size and lambda mean the same for any sigma. Draws of z are
the same for all tiles and for all calls. Gradients are not clipped: theirs are at 100, which is not reached here.

Tiles are computed in groups that are always of one size (see `uadray.detectors.inversion.search`), so that a tile alone
ends as it does among others: the subgradient of TV makes small differences large.
"""

from collections.abc import Callable, Sequence
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.detectors.inversion.descent import default_group
from uadray.detectors.inversion.interruption import between_steps
from uadray.detectors.inversion.search import in_groups
from uadray.detectors.likelihood.total_variation import total_variation

Elbo = Callable[[Tensor, Tensor], Tensor]
"""Images [n, 3, h, w], noise [n, d] -> the bound of each [n], differentiable in the images."""

FIRST_SHARE, LATER_RATE = 0.2, 0.4
"""Share of the steps that are of full size, and how large the others are beside them (authors' code)."""

SEED = 0
"""Of the noise of z."""


def step_sizes(steps: int, step_size: float) -> list[float]:
    """The size of each step.

    >>> step_sizes(5, 0.5)
    [0.5, 0.2, 0.2, 0.2, 0.2]
    """
    return [step_size * (1.0 if step < FIRST_SHARE * steps else LATER_RATE) for step in range(steps)]


def fixed_noise(steps: int, dim: int) -> Float[Tensor, "steps d"]:
    """Standard normal noise for each step, the same at every call."""
    return torch.randn(steps, dim, generator=torch.Generator().manual_seed(SEED))


def restored(
    x: Float[Tensor, "n 3 h w"],
    weights: Float[Tensor, " n"],
    *,
    elbo: Elbo,
    scale: Float[Tensor, ""],
    noise: Float[Tensor, "steps d"],
    sizes: Sequence[float],
) -> Float[Tensor, "n 3 h w"]:
    """Images restored, each with its own lambda; within `torch.inference_mode` and autocast too, which are left for it.

    Args:
        x: in [-1, 1].
        weights: lambda of each image.
        elbo: of the prior.
        scale: 2 sigma^2 of the prior, see above.
        noise: of z, by step; zeros take its mean.
        sizes: of the steps.
    """
    if not sizes:
        return x.clone()
    group = default_group(x.shape[-1], x.device.type)
    groups, number = -(-len(x) // group), count()

    def ascent(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        start, lambdas = tensors
        image, before = start, next(number)
        for step, size in enumerate(sizes):
            image = image.detach().requires_grad_()
            bound = scale * elbo(image, noise[step].expand(len(image), -1))
            value = bound - lambdas * total_variation(image - start)
            image = image + size * torch.autograd.grad(value.sum(), image)[0]
            between_steps((before + (step + 1) / len(sizes)) / groups)
        return (image.detach(),)

    as_it_is = torch.autocast(x.device.type, enabled=False)
    with torch.inference_mode(mode=False), torch.enable_grad(), as_it_is:
        noise, scale = noise.to(x.device, torch.float32).clone(), scale.detach().clone()
        return in_groups(ascent, [x.float().clone(), weights.float().clone()], group)[0]
