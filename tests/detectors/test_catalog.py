"""Every detector has the same five names and keeps the same promises, whichever it is."""

import math
from collections.abc import Iterable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from networks_watch import smooth_pictures
from pydantic import TypeAdapter
from torch import Tensor

from uadray.detectors import (
    adversarial_autoencoder,
    alocc,
    anogan,
    autoencoder,
    context_vae,
    dagmm,
    deep_geo,
    deep_if,
    deep_svdd,
    diffusion,
    dpa,
    dsebm,
    enlarged_nuclei,
    fanogan,
    ganomaly,
    hybrid,
    mahalanobis,
    memory_autoencoder,
    neighbours,
    ocgan,
    piad,
    projection,
    restoration,
    self_supervised,
    synthetic_anomalies,
    tuned_nuclei,
    vae,
    vae_gan,
    vq_vae,
)
from uadray.detectors.building import DetectorConfig, build_detector, build_networks, build_trainee, file_of, outline_of
from uadray.detectors.catalog import SingleConfig, assumption_of, summary_of
from uadray.detectors.detector import BATCH, STAGES
from uadray.detectors.features.frozen import BackboneConfig
from uadray.networks import weights
from uadray.training.loop import as_floats

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = dpa.Config(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block2"))
GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8, critic_steps=2, encoder_fraction=0.4)
NUCLEI = enlarged_nuclei.Config(
    kind="enlarged_nuclei", input_px=16, backbone_mpp=0.243, layers=("block0", "block2"), heads=1
)
TUNED = tuned_nuclei.Config(
    kind="tuned_nuclei", input_px=16, backbone_mpp=0.243, layers=("block0", "block2"), train_blocks=1
)  # fmt: skip
LITE = BackboneConfig(kind="backbone", layers=("block1",))
GEO = deep_geo.Config(kind="deep_geo", input_px=16, transformations=("flip", "translation"))
DAGMM = dagmm.Config(kind="dagmm", input_px=16, width=4, latent_dim=2, gaussians=2)
ENERGY = dsebm.Config(kind="dsebm", input_px=16, width=4, units=8)
OCGAN = ocgan.Config(kind="ocgan", input_px=16, width=4, critic_width=4, latent_dim=4)
SVDD = deep_svdd.Config(kind="deep_svdd", input_px=16, width=4, latent_dim=6, centre_fraction=0.2)
FOREST = deep_if.Config(kind="deep_if", input_px=16, features=LITE, trees=10, max_samples=16, kept=64)
DIFFUSION = diffusion.Config(
    kind="diffusion", input_px=16, width=4, halvings=2, attention_halvings=2, levels=(100, 300), steps=2
)  # fmt: skip
PIAD = piad.Config(kind="piad", input_px=16, width=4, latent_dim=4, latent_width=8, layers=("block0", "block2"))
STYLES = {
    "kind": "stylegan2", "input_px": 16, "latent_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_max": 8,
    "channel_base": 64,
}  # fmt: skip
PROJECTION = projection.Config.model_validate(
    {"kind": "projection", "steps": 2, "lpips_px": 32, "learning_rate": 0.5, "generator": STYLES}
)
HYBRID = hybrid.Config.model_validate({
    "kind": "hybrid", "steps": 3, "lpips_px": 32, "width": 4, "channel_max": 8, "generator_fraction": 0.5,
    "encoder_learning_rate": 0.01, "terms": ({"kind": "lpips"},), "generator": STYLES,
})  # fmt: skip
CELLS = BackboneConfig(kind="backbone", layers=("block1", "block3"), pooling="cells")
CORESET = neighbours.Config(
    kind="neighbours", input_px=16, features=CELLS, components=4, candidates=40, bank=20, reweigh=True
)  # fmt: skip
MIXTURE = mahalanobis.Config(
    kind="mahalanobis", input_px=16, features=CELLS, density="mixture", components=4, gaussians=2, candidates=40
)  # fmt: skip
SELF_SUPERVISED = self_supervised.Config.model_validate({
    "kind": "self_supervised", "input_px": 16, "encoder": {"width": 4}, "views": {"view_px": 16}, "components": 4,
    "projector_width": 16, "projected": 8, "density_share": 0.3, "weight_decay": 0,
})  # fmt: skip
SYNTHETIC = synthetic_anomalies.Config(
    kind="synthetic_anomalies", input_px=16, width=4, halvings=2, score="gaussian", density_share=0.3
)  # fmt: skip
ANOGAN = anogan.Config.model_validate({
    "kind": "anogan", "generator": {"kind": "dcgan", "input_px": 16, "width": 4, "latent_dim": 8},
    "descent": {"steps": 4}, "generator_fraction": 0.7, "terms": [{"kind": "pixel_l1"}, {"kind": "critic"}],
})  # fmt: skip
VAE = vae.Config(kind="vae", input_px=16, width=4, latent_dim=4, score="importance", draws=3, gradient_draws=2)
CONTEXT_VAE = context_vae.Config.model_validate(
    {"kind": "context_vae", "input_px": 16, "width": 4, "latent_dim": 4, "adversarial": {"critic_steps": 1}}
)
VQ_VAE = vq_vae.Config(
    kind="vq_vae", input_px=16, width=4, halvings=2, codes=8, code_dim=4, prior_width=8, prior_layers=1, prior_heads=2,
    sample_threshold=None,
)  # fmt: skip
ALOCC = alocc.Config(kind="alocc", input_px=16, width=4, halvings=2, latent_channels=4)
GANOMALY = ganomaly.Config(kind="ganomaly", input_px=16, width=4, latent_dim=8)
MEMORY = memory_autoencoder.Config(
    kind="memory_autoencoder", input_px=16, width=4, halvings=2, latent_channels=8, items=12
)  # fmt: skip
AUTOENCODER = autoencoder.Config.model_validate({
    "kind": "autoencoder", "input_px": 16, "width": 4, "latent_dim": 8, "terms": [{"kind": "pixel_l2"}],
})  # fmt: skip
ADVERSARIAL = adversarial_autoencoder.Config(kind="adversarial_autoencoder", input_px=16, width=4, latent_dim=8)
VAE_GAN = vae_gan.Config(kind="vae_gan", input_px=16, width=4, latent_dim=4, halvings=2)
RESTORATION = restoration.Config(
    kind="restoration", input_px=16, width=4, latent_dim=8, prior="gmvae", w_dim=2, components=3, steps=4,
    choosing_fraction=0.1,
)  # fmt: skip
EXAMPLES = [
    CONTEXT_VAE,
    RESTORATION,
    VAE,
    VAE_GAN,
    AUTOENCODER,
    ADVERSARIAL,
    DAGMM,
    ENERGY,
    OCGAN,
    SVDD,
    ANOGAN, DPA, GAN, HYBRID, NUCLEI, TUNED, GEO, FOREST, PIAD, PROJECTION, CORESET, MIXTURE, SELF_SUPERVISED,
    VQ_VAE,
    SYNTHETIC,
    DIFFUSION,
    ALOCC, GANOMALY, MEMORY,
]  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    """Eight pictures, two of them as pink as eosin, two as dark as nuclei, so that every detector learns of them."""
    pictures, pink, dark = smooth_pictures(), torch.tensor([0.8, 0.2, 0.6]), torch.tensor([-0.4, -0.7, 0.0])
    for place, colour in ((slice(0, 2), pink), (slice(2, 4), dark)):
        pictures[place] = 0.25 * pictures[place] + colour[:, None, None]
    return pictures


def test_there_is_an_example_of_every_member() -> None:
    members = get_args(get_args(SingleConfig)[0])
    assert {type(config) for config in EXAMPLES} == set(members)


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_a_file_has_the_five_names(config: Any) -> None:
    file: Any = file_of(config)
    assert isinstance(config, file.Config)
    assert file.Config.model_config["frozen"]
    assert config.input_px == 16
    read: Any = TypeAdapter(DetectorConfig).validate_python(config.model_dump(mode="json"))
    assert read == config
    known = {entry.name for entry in weights.registry()}
    assert set(file.borrowed_weights(config)) <= known
    assert all(t.is_meta for network in outline_of(config).values() for t in network.parameters())


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_what_was_trained_a_few_steps_scores(config: Any, x: Tensor) -> None:
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    trainee.prepare(x)
    seen = []
    for progress in (0.0, 0.3, 0.65, 0.8, 0.95):
        assert all(math.isfinite(value) for value in trainee.step(x, progress).values())
        seen.append(trainee.phase(progress))
    trainee.finish()
    assert [phase for i, phase in enumerate(seen) if phase not in seen[:i]] == list(trainee.phases)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH + 1, 20, 20, 3), dtype=np.uint8)
    scored = build_detector(config, networks, stages=STAGES)(pixels)
    assert scored.score.shape == (BATCH + 1,)
    assert np.isfinite(scored.score).all()
    assert scored.score.std() > 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_it_learns_in_bfloat16_on_each_device_and_scores_there_as_on_a_cpu(config: Any, x: Tensor, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("NO GPU: training on one was not tested")
    networks = build_networks(config)
    for network in networks.values():
        network.to(device).to(memory_format=torch.channels_last)
    trainee = build_trainee(config, networks)
    trainee.prepare(x.to(device))
    for progress in (0.0, 0.3, 0.65, 0.8, 0.95):
        with torch.autocast(device, torch.bfloat16):
            losses = trainee.step(x.to(device), progress)
        assert all(math.isfinite(value) for value in as_floats(losses).values())
    trainee.finish()
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH + 1, 20, 20, 3), dtype=np.uint8)
    found = build_detector(config, networks, device=device)(pixels).score
    expected = build_detector(config, networks)(pixels).score
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_the_learning_rate_to_lower_is_a_field(config: Any) -> None:
    trainee = build_trainee(config, build_networks(config))
    for name in {trainee.learning_rate(progress) for progress in (0.0, 0.5, 0.99)} - {""}:
        value = config
        for field in name.split("."):  # "generator.learning_rate" is one of the generator's configuration
            assert field in type(value).model_fields
            value = getattr(value, field)


def test_averaging_is_asked_for_before_each_optimizer_step(x: Tensor) -> None:
    """Zeroed gradients stand for a group whose workers cancel out: nothing may move."""

    def cancel(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.zero_()

    for config, progress in ((DPA, 0.0), (GAN, 0.0), (GAN, 0.9), (PIAD, 0.0), (SELF_SUPERVISED, 0.3)):
        networks = build_networks(config)
        weights = {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
        trainee = build_trainee(config, networks, average=cancel)
        for _ in range(2):
            assert all(math.isfinite(value) for value in trainee.step(x, progress).values())
        assert all(all(map(torch.equal, n.parameters(), weights[name])) for name, n in networks.items())


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda config: config.kind)
def test_a_detector_says_what_it_is_and_what_it_assumes(config: Any) -> None:
    assert summary_of(config).endswith(".")
    assert len(assumption_of(config) or "") > 20
