"""Every detector of the catalog, tiny, with networks as a training leaves them: one line of `SMALL` a kind."""

from typing import get_args

import numpy as np
import torch
from pydantic import TypeAdapter

from uadray.detectors.building import DetectorConfig, build_networks, build_trainee
from uadray.detectors.bundle import write_bundle
from uadray.detectors.catalog import SingleConfig
from uadray.networks.outline import Networks
from uadray.tiles.spec import TileSpec

TILE_PX = 40
"""Side of the tiles, larger than any input of `SMALL`; their pixels have 1 um."""

_CELLS = {"kind": "backbone", "layers": ("block1", "block3"), "pooling": "cells"}

SMALL: list[dict[str, object]] = [
    {"kind": "adversarial_autoencoder", "input_px": 16, "width": 4, "latent_dim": 8},
    {"kind": "alocc", "input_px": 16, "width": 4, "halvings": 2, "latent_channels": 4},
    {
        "kind": "anogan",
        "generator": {"kind": "dcgan", "input_px": 16, "width": 4, "latent_dim": 8},
        "descent": {"steps": 6},
    },
    {"kind": "context_vae", "input_px": 16, "width": 4, "latent_dim": 4, "gradient_draws": 2},
    {"kind": "autoencoder", "input_px": 16, "width": 4, "latent_dim": 8},
    {"kind": "dagmm", "input_px": 16, "width": 4, "latent_dim": 2, "gaussians": 2},
    {"kind": "deep_geo", "input_px": 16, "transformations": ("flip", "rotation")},
    {
        "kind": "deep_if",
        "input_px": 32,
        "features": _CELLS | {"pooling": "tile"},
        "trees": 10,
        "max_samples": 16,
        "kept": 64,
    },
    {"kind": "diffusion", "input_px": 16, "width": 4, "halvings": 2, "levels": (100, 300), "steps": 2},
    {"kind": "deep_svdd", "input_px": 16, "width": 4, "latent_dim": 6, "centre_fraction": 0.2},
    {"kind": "dpa", "input_px": 32, "width": 4, "halvings": 2},
    {"kind": "dsebm", "input_px": 16, "width": 4, "units": 8},
    {"kind": "enlarged_nuclei", "input_px": 32, "mpp": 1},
    {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8},
    {"kind": "ganomaly", "input_px": 16, "width": 4, "latent_dim": 8},
    {
        "kind": "hybrid",
        "generator": {
            "kind": "stylegan2",
            "input_px": 16,
            "latent_dim": 8,
            "w_dim": 8,
            "mapping_layers": 2,
            "channel_max": 8,
            "channel_base": 64,
        },
        "width": 4,
        "channel_max": 8,
        "steps": 4,
        "lpips_px": 32,
    },
    {"kind": "mahalanobis", "input_px": 32, "features": _CELLS},
    {
        "kind": "memory_autoencoder",
        "input_px": 16,
        "width": 4,
        "halvings": 2,
        "latent_channels": 8,
        "items": 12,
    },
    {"kind": "neighbours", "input_px": 32, "features": _CELLS, "components": 6, "neighbours": 8, "candidates": 100},
    {"kind": "ocgan", "input_px": 16, "width": 4, "critic_width": 4, "latent_dim": 4},
    {"kind": "piad", "input_px": 16, "width": 4, "latent_dim": 4, "latent_width": 8, "layers": ("block0", "block1")},
    {
        "kind": "projection",
        "generator": {
            "kind": "stylegan2",
            "input_px": 16,
            "latent_dim": 8,
            "w_dim": 8,
            "mapping_layers": 2,
            "channel_max": 8,
            "channel_base": 64,
        },
        "steps": 2,
        "lpips_px": 32,
    },
    {"kind": "restoration", "input_px": 16, "width": 4, "latent_dim": 8, "steps": 6, "choosing_fraction": 0.3},
    {
        "kind": "self_supervised",
        "input_px": 16,
        "encoder": {"width": 4},
        "views": {"view_px": 16},
        "components": 4,
    },
    {
        "kind": "synthetic_anomalies",
        "input_px": 32,
        "width": 4,
        "halvings": 3,
        "score": "gaussian",
        "density_share": 0.5,
    },
    {"kind": "tuned_nuclei", "input_px": 32, "mpp": 1, "layers": ("block2",), "train_blocks": 1},
    {"kind": "vae", "input_px": 16, "width": 4, "latent_dim": 4, "reconstruction": "categorical", "colours": 4},
    {"kind": "vae_gan", "input_px": 16, "width": 4, "latent_dim": 4, "halvings": 2},
    {
        "kind": "vq_vae",
        "input_px": 16,
        "width": 4,
        "halvings": 2,
        "codes": 8,
        "code_dim": 4,
        "prior_width": 8,
        "prior_layers": 1,
        "prior_heads": 2,
        "maps": "restoration",
        "sample_threshold": None,
        "pixel_quantile": 0.8,
        "restorations": 3,
    },
]

CONFIGS: list[SingleConfig] = [TypeAdapter(SingleConfig).validate_python(values) for values in SMALL]

STEPS = 8


def kinds() -> set[str]:
    """All kinds of the catalog."""
    models = get_args(get_args(SingleConfig)[0])
    return {kind for model in models for kind in get_args(model.model_fields["kind"].annotation)}


def tiles(n: int, side_px: int = TILE_PX, *, seed: int = 0) -> np.ndarray:
    """RGB [n, side, side, 3]: smooth blots, of which no two tiles are alike; read-only, as from the object store."""
    coarse = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(side_px, side_px), mode="bilinear", align_corners=False)
    pixels = smooth.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
    pixels.setflags(write=False)
    return pixels


def trained(config: DetectorConfig) -> Networks:
    """Its networks after a few steps, everything fitted."""
    torch.manual_seed(0)
    networks = build_networks(config)
    for network in networks.values():
        network.to(memory_format=torch.channels_last)
    if config.kind in ("enlarged_nuclei", "tuned_nuclei"):  # need views with nuclei, which take seconds: any head does
        head = networks["head"] if config.kind == "enlarged_nuclei" else networks["classifier"]
        for name, weight in head.state_dict().items():
            if name.endswith("weight"):
                weight.normal_(std=0.1)
        return networks
    trainee = build_trainee(config, networks)
    x = torch.tensor(tiles(64, config.input_px, seed=1)).permute(0, 3, 1, 2).float() / 127.5 - 1
    trainee.prepare(x)
    for step in range(STEPS):
        trainee.step(x.roll(8 * step, 0)[:16], 0.99 * step / (STEPS - 1))
    trainee.finish()
    return networks


def slow_search(uri: str) -> str:
    """A bundle of AnoGAN that searches for minutes for any tile; returns its URI."""
    (small,) = (config for config in CONFIGS if config.kind == "anogan")
    config = TypeAdapter(SingleConfig).validate_python(small.model_dump() | {"descent": {"steps": 100_000}})
    write_bundle(uri, build_networks(config), name="search", detector=config, tiles=TileSpec(mpp=1, tile_px=TILE_PX))
    return uri
