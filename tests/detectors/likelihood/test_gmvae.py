"""The bound of a mixture VAE against one written out and integrated numerically, where z and w are numbers."""

import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence

from uadray.detectors.likelihood.gmvae import ConditionalPrior, gmvae_networks, mixture_bound_of
from uadray.detectors.likelihood.observation import GaussianObservation

pytestmark = pytest.mark.usefixtures("torch_alone")

CLUSTERS, PX = 3, 2
ENCODED = torch.tensor([[0.4, -0.3, -1.5, -0.8]])
"""Means of z and w, then the logarithms of their variances."""


class Fixed(nn.Module):
    """An encoder that says the same of every image."""

    def forward(self, x: Tensor) -> Tensor:
        return ENCODED.expand(len(x), -1)


class Bent(nn.Module):
    """A decoder of numbers z, not linear in them."""

    def forward(self, z: Tensor) -> Tensor:
        scale = torch.linspace(-0.5, 1, 3 * PX * PX).view(1, 3, PX, PX)
        return torch.tanh(z)[:, :, None, None] * scale


@pytest.fixture
def tiny() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    prior = ConditionalPrior(w_dim=1, latent_dim=1, components=CLUSTERS, width=4)
    with torch.no_grad():
        for weight in prior.parameters():
            weight.mul_(2)
    return {
        "encoder": Fixed(), "decoder": Bent(), "conditional_prior": prior, "observation": GaussianObservation(),
    }  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(-1, 1, 3 * PX * PX).view(1, 3, PX, PX)


def components_at(tiny: dict[str, nn.Module], w: Tensor) -> Normal:
    """p(z | w, c) of each cluster, [k]."""
    mean, log_variance = tiny["conditional_prior"](w.view(1, 1))
    return Normal(mean[0, :, 0], (0.5 * log_variance[0, :, 0]).exp())


def log_image(tiny: dict[str, nn.Module], x: Tensor, z: Tensor) -> Tensor:
    """Log p(x | z), the observation's variance being 1."""
    x_hat: Tensor = tiny["decoder"](z.view(1, 1))
    return -0.5 * ((x - x_hat).square() + math.log(2 * math.pi)).sum()


@torch.no_grad()
def test_each_term_is_as_written_out(tiny: dict[str, nn.Module], x: Tensor) -> None:
    noise = torch.tensor([[0.7, -1.2]])
    bound = mixture_bound_of(tiny, x, noise)
    z_mean, w_mean, z_std, w_std = 0.4, -0.3, math.exp(-0.75), math.exp(-0.4)
    z, w = torch.tensor(z_mean + z_std * 0.7), torch.tensor(w_mean + w_std * -1.2)
    of_clusters = components_at(tiny, w)
    joint = of_clusters.log_prob(z).exp() / CLUSTERS
    posterior = joint / joint.sum()
    divergences = kl_divergence(Normal(z_mean, z_std), of_clusters)
    torch.testing.assert_close(bound.log_likelihood.sum(), log_image(tiny, x, z))
    torch.testing.assert_close(bound.clusters[0], posterior)
    torch.testing.assert_close(bound.conditional_prior[0], (posterior * divergences).sum())
    torch.testing.assert_close(bound.w_prior[0], kl_divergence(Normal(w_mean, w_std), Normal(0.0, 1.0)))
    uniform = Categorical(torch.ones(CLUSTERS))
    torch.testing.assert_close(bound.c_prior[0], kl_divergence(Categorical(posterior), uniform))
    expected = bound.log_likelihood.sum() - bound.conditional_prior - bound.w_prior - bound.c_prior
    torch.testing.assert_close(bound.elbo, expected)


@torch.no_grad()
def test_its_mean_over_draws_lies_below_log_p_as_far_as_it_should(tiny: dict[str, nn.Module], x: Tensor) -> None:
    """Quadrature over z and w, and sums over c, against the bound's mean over its draws.

    ELBO is E_q[log p(x, z, w, c) - log q(z, w, c)] with q(c) = p(c | z, w). The paper's conditional prior takes the
    mean of p(c | z, w) and the divergence by themselves, and so it is lower by the sum of cov_z(p(c | z, w),
    log p(c | z, w)) over c, which is no less than 0. Log p(x) is integrated over the prior.
    """
    nodes, node_weights = hermegauss(24)
    a, weight = torch.tensor(nodes).float(), torch.tensor(node_weights / node_weights.sum()).float()
    z, w = 0.4 + math.exp(-0.75) * a, -0.3 + math.exp(-0.4) * a
    both = weight[:, None] * weight  # of z, of w
    of_image = torch.stack([log_image(tiny, x, each) for each in z])
    joint = torch.stack([components_at(tiny, each).log_prob(z[:, None]) for each in w], 1) - math.log(CLUSTERS)
    log_prior = torch.logsumexp(joint, 2) + Normal(0.0, 1.0).log_prob(w)  # log p(z, w), [z, w]
    log_q = Normal(0.4, math.exp(-0.75)).log_prob(z)[:, None] + Normal(-0.3, math.exp(-0.4)).log_prob(w)
    elbo = (both * (of_image[:, None] + log_prior - log_q)).sum()
    log_posterior = torch.log_softmax(joint, 2)
    posterior = log_posterior.exp()
    mean, mean_log, mean_product = (
        (weight[:, None, None] * t).sum(0) for t in (posterior, log_posterior, posterior * log_posterior)
    )
    covariance = (weight * (mean_product - mean * mean_log).sum(1)).sum()
    noise = torch.cartesian_prod(a, a)
    terms = mixture_bound_of(tiny, x.expand(len(noise), -1, -1, -1), noise)
    bound = (both.flatten() * terms.elbo).sum()
    torch.testing.assert_close(bound, elbo - covariance, rtol=1e-4, atol=1e-4)
    drawn = [components_at(tiny, each) for each in a]  # w of its prior, then z of each cluster
    z_drawn = torch.stack([p.mean + p.stddev * a[:, None] for p in drawn])  # [w, z, k]
    images = torch.stack([log_image(tiny, x, each) for each in z_drawn.flatten()]).view_as(z_drawn)
    log_p = (both[:, :, None] * images.exp() / CLUSTERS).sum().log()
    assert covariance > 0
    assert elbo < log_p < elbo + 5


def test_the_c_prior_is_cut_from_below_in_training(tiny: dict[str, nn.Module], x: Tensor) -> None:
    """Below the cut it has no gradient, above it is what it was."""
    bound = mixture_bound_of(tiny, x, torch.zeros(1, 2))
    c_prior = float(bound.c_prior.detach())
    assert 0 < c_prior < math.log(CLUSTERS)
    torch.testing.assert_close(bound.elbo_cut(c_prior / 2), bound.elbo)
    torch.testing.assert_close(bound.elbo_cut(1.0), bound.elbo + c_prior - 1)
    prior = tiny["conditional_prior"]
    assert isinstance(prior, ConditionalPrior)
    means = prior.mean.weight
    other = -(bound.log_likelihood.sum() - bound.conditional_prior - bound.w_prior)
    expected = torch.autograd.grad(other.sum(), means, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(-bound.elbo_cut(1.0).sum(), means)[0], expected)


def test_one_component_is_a_vae_whose_prior_depends_on_w(x: Tensor) -> None:
    """Nothing is to be told of clusters then."""
    x = x.expand(2, -1, -1, -1).repeat(1, 1, 8, 8)
    named = gmvae_networks(width=4, input_px=16, latent_dim=3, w_dim=2, components=1, mixture_width=4)
    bound = mixture_bound_of(named, x, torch.randn(2, 5))
    torch.testing.assert_close(bound.c_prior, torch.zeros(2))
    torch.testing.assert_close(bound.clusters, torch.ones(2, 1))
    assert bound.x_hat.shape == (2, 3, 16, 16)
    assert bound.log_likelihood.shape == (2, 16, 16)
