"""A variational autoencoder whose latent is a mixture of Gaussians (GMVAE): its networks and its bound.

Dilokthanakul et al. 2016, https://arxiv.org/abs/1611.02648 .

As there: a cluster c is one of K, equally probable; w is standard normal; z is, given both, a Gaussian whose mean and
variance a network tells from w, another for each cluster; x is drawn from z. One encoder tells q(z | x) and q(w | x),
both Gaussians, and p(c | z, w) is exact, by Bayes' rule. The bound has four terms: reconstruction, conditional prior,
w prior and c prior, the last of which may be cut off from below in training, so that clusters are not given up before
they are told apart ("minimum information constraint"). The conditional prior takes p(c | z, w) at the drawn z and the
divergence of q(z | x) as a whole: its mean lies below the ELBO of the same posterior, by the covariance of p(c | z, w)
with its logarithm over z, summed over c, and so it is a bound of log p(x) too.

Different: z and w are vectors, not maps of places as with You et al. 2019 and Chen et al. 2020
(https://arxiv.org/abs/2005.00031); the variance of x is one learned number for all pixels (see
`uadray.detectors.likelihood.observation`). The text of the first paper could not be opened: it is followed from memory,
and from the bound as the authors of the restoration compute it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.likelihood.gaussians import LOG_VARIANCES, gaussian_of, kl_to_standard_normal, reparameterised
from uadray.detectors.likelihood.observation import GaussianObservation
from uadray.networks.coding import VectorDecoder, VectorEncoder
from uadray.networks.outline import Networks


class ConditionalPrior(nn.Module):
    """p(z | w, c): one hidden layer, then mean and log variance of z for each cluster.

    Args:
        w_dim: length of w.
        latent_dim: length of z.
        components: clusters, K.
        width: of the hidden layer (authors of the restoration: 64).
    """

    def __init__(self, *, w_dim: int, latent_dim: int, components: int, width: int) -> None:
        super().__init__()
        self.components = components
        self.hidden = nn.Linear(w_dim, width)
        self.mean = nn.Linear(width, components * latent_dim)
        self.log_variance = nn.Linear(width, components * latent_dim)

    def forward(self, w: Float[Tensor, "n w"]) -> tuple[Float[Tensor, "n k d"], Float[Tensor, "n k d"]]:
        """Means and logarithms of variances, of each cluster."""
        h = torch.tanh(self.hidden(w))
        mean, log_variance = (layer(h).unflatten(1, (self.components, -1)) for layer in (self.mean, self.log_variance))
        return mean, log_variance.clamp(*LOG_VARIANCES)


def gmvae_networks(
    *, width: int, input_px: int, latent_dim: int, w_dim: int, components: int, mixture_width: int
) -> Networks:
    """`encoder` (z, then w), `conditional_prior`, `decoder` (the mean of x) and `observation` (its variance)."""
    return {
        "encoder": VectorEncoder(width=width, input_px=input_px, outputs=2 * (latent_dim + w_dim)),
        "conditional_prior": ConditionalPrior(
            w_dim=w_dim, latent_dim=latent_dim, components=components, width=mixture_width
        ),
        "decoder": VectorDecoder(width=width, input_px=input_px, latent_dim=latent_dim),
        "observation": GaussianObservation(),
    }


@dataclass(frozen=True)
class MixtureBound:
    """The evidence lower bound of n images in its four terms, in nats, of one draw of z and w.

    Attributes:
        log_likelihood: [n, h, w], log p(x | z) at each pixel: the reconstruction term.
        conditional_prior: [n], E_p(c | z, w) KL(q(z | x) || p(z | w, c)).
        w_prior: [n], KL(q(w | x) || p(w)).
        c_prior: [n], KL(p(c | z, w) || p(c)), from 0 (all clusters alike) to log K (one of them).
        clusters: [n, k], p(c | z, w).
        x_hat: [n, 3, h, w], the mean of x given z.
    """

    log_likelihood: Float[Tensor, "n h w"]
    conditional_prior: Float[Tensor, " n"]
    w_prior: Float[Tensor, " n"]
    c_prior: Float[Tensor, " n"]
    clusters: Float[Tensor, "n k"]
    x_hat: Float[Tensor, "n 3 h w"]

    @property
    def elbo(self) -> Float[Tensor, " n"]:
        """The reconstruction term less the three others."""
        return self.elbo_cut(0.0)

    def elbo_cut(self, nats: float) -> Float[Tensor, " n"]:
        """The same where the c prior counts as `nats` at the least, so that it has no gradient below."""
        c_prior = self.c_prior.clamp_min(nats) if nats else self.c_prior
        return self.log_likelihood.flatten(1).sum(1) - self.conditional_prior - self.w_prior - c_prior


def mixture_bound_of(
    networks: Mapping[str, nn.Module], x: Float[Tensor, "n 3 h w"], noise: Float[Tensor, "n d_and_w"]
) -> MixtureBound:
    """The bound of images in [-1, 1]. Differentiable in x.

    Args:
        networks: those of `gmvae_networks`.
        x: images.
        noise: standard normal, for z and then for w; zeros take their means.
    """
    mean, log_variance = gaussian_of(networks["encoder"](x).float())
    prior = cast(ConditionalPrior, networks["conditional_prior"])
    latent_dim = mean.shape[1] - prior.hidden.in_features
    z, w = reparameterised(mean, log_variance, noise).split_with_sizes([latent_dim, prior.hidden.in_features], 1)
    (z_mean, w_mean), (z_log_variance, w_log_variance) = (
        t.split_with_sizes([latent_dim, prior.hidden.in_features], 1) for t in (mean, log_variance)
    )
    prior_mean, prior_log_variance = (t.float() for t in prior(w))
    log_clusters = log_cluster_posterior(z, prior_mean, prior_log_variance)
    divergences = kl_to_components(z_mean, z_log_variance, prior_mean, prior_log_variance)
    clusters, x_hat = log_clusters.exp(), networks["decoder"](z)
    return MixtureBound(
        log_likelihood=cast(GaussianObservation, networks["observation"])(x, x_hat),
        conditional_prior=(clusters * divergences).sum(1),
        w_prior=kl_to_standard_normal(w_mean, w_log_variance),
        c_prior=(clusters * (log_clusters + math.log(prior.components))).sum(1),
        clusters=clusters,
        x_hat=x_hat,
    )


def log_cluster_posterior(
    z: Float[Tensor, "n d"], mean: Float[Tensor, "n k d"], log_variance: Float[Tensor, "n k d"]
) -> Float[Tensor, "n k"]:
    """Log p(c | z, w) of equally probable clusters, whose Gaussians have these means and variances."""
    each = -0.5 * (log_variance + (z[:, None] - mean).square() * (-log_variance).exp())
    return torch.log_softmax(each.sum(2), 1)


def kl_to_components(
    mean: Float[Tensor, "n d"],
    log_variance: Float[Tensor, "n d"],
    prior_mean: Float[Tensor, "n k d"],
    prior_log_variance: Float[Tensor, "n k d"],
) -> Float[Tensor, "n k"]:
    """KL(N(mean, variance) || each of k Gaussians), summed over coordinates."""
    squares = log_variance.exp()[:, None] + (mean[:, None] - prior_mean).square()
    each = 0.5 * (prior_log_variance - log_variance[:, None] + squares * (-prior_log_variance).exp() - 1)
    return each.sum(2)
