"""A checkpoint restores networks and Adam to the bit; damaged or foreign files are refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from uadray.detectors import deep_geo, deep_if, dpa, fanogan, piad
from uadray.detectors.building import build_networks, build_trainee
from uadray.detectors.catalog import SingleConfig
from uadray.detectors.features.frozen import BackboneConfig
from uadray.detectors.trainee import Trainee
from uadray.errors import InputError
from uadray.networks.outline import Networks
from uadray.networks.weights_file import load_networks, save_networks
from uadray.training.checkpoint import load_state, save_state

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = dpa.Config(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0",))
GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8, critic_steps=2)
PIAD = piad.Config(kind="piad", input_px=16, width=4, latent_dim=4, latent_width=8, layers=("block0",))
GEO = deep_geo.Config(kind="deep_geo", input_px=16, transformations=("rotation",))
FOREST = deep_if.Config(
    kind="deep_if", input_px=16, features=BackboneConfig(kind="backbone", layers=("block0",)), kept=12
)
X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _trainee(config: SingleConfig, seed: int) -> Trainee:
    torch.manual_seed(seed)
    networks = build_networks(config)
    for network in networks.values():
        network.to(memory_format=torch.channels_last).train()  # as the worker has them
    return build_trainee(config, networks)


def _weights(networks: Networks) -> dict[str, Tensor]:
    return {f"{name}.{key}": t.clone() for name, n in networks.items() for key, t in n.state_dict().items()}


@pytest.mark.parametrize(
    ("config", "progress"),
    [(DPA, 0.5), (GAN, 0.1), (GAN, 0.9), (PIAD, 0.5), (GEO, 0.1), (GEO, 0.95), (FOREST, 0.5)],
    ids=lambda value: getattr(value, "kind", str(value)),
)
def test_one_more_step_after_a_restore_is_bit_equal(config: SingleConfig, progress: float, tmp_path: Path) -> None:
    first = _trainee(config, seed=1)
    for _ in range(4):
        first.step(X, progress)
    save_state(tmp_path, first.networks, first.optimizers, {"epochs_done": 3})
    second = _trainee(config, seed=2)
    assert load_state(tmp_path, second.networks, second.optimizers) == {"epochs_done": 3}
    second.counts |= first.counts
    for trainee in (first, second):
        torch.manual_seed(7)
        trainee.step(X, progress)
        trainee.step(X, progress)
        if config.kind == "deep_if" or progress == 0.95:
            trainee.finish()
    ours, restored = _weights(first.networks), _weights(second.networks)
    assert ours.keys() == restored.keys()
    assert [key for key, t in ours.items() if not torch.equal(t, restored[key])] == []


def test_without_the_optimizers_state_the_step_differs(tmp_path: Path) -> None:
    """So that the test above means something: Adam's moments matter."""
    first = _trainee(DPA, seed=1)
    for _ in range(4):
        first.step(X, 0.0)
    save_networks(tmp_path / "n.safetensors", first.networks)
    second = _trainee(DPA, seed=2)
    load_networks(tmp_path / "n.safetensors", second.networks)
    for trainee in (first, second):
        trainee.step(X, 0.0)
    ours, others = _weights(first.networks), _weights(second.networks)
    assert any(not torch.equal(t, others[key]) for key, t in ours.items())


def test_a_checkpoint_before_the_first_step(tmp_path: Path) -> None:
    first, second = _trainee(GAN, seed=1), _trainee(GAN, seed=2)
    save_state(tmp_path, first.networks, first.optimizers, {"epochs_done": 0})
    load_state(tmp_path, second.networks, second.optimizers)
    restored = _weights(second.networks)
    assert all(torch.equal(t, restored[key]) for key, t in _weights(first.networks).items())


def test_files_are_safetensors_and_json(tmp_path: Path) -> None:
    trainee = _trainee(GAN, seed=1)
    trainee.step(X, 0.0)
    save_state(tmp_path, trainee.networks, trainee.optimizers, {"epochs_done": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "networks.safetensors",
        "optimizers.safetensors",
        "progress.json",
    ]
    assert {key.split(".")[0] for key in load_file(tmp_path / "networks.safetensors")} == set(trainee.networks)
    assert json.loads((tmp_path / "progress.json").read_text()) == {"epochs_done": 1}


@pytest.mark.parametrize("name", ["networks.safetensors", "optimizers.safetensors", "progress.json"])
@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.99])
def test_truncated_files_are_refused(name: str, kept: float, tmp_path: Path) -> None:
    trainee = _trainee(GAN, seed=1)
    trainee.step(X, 0.0)
    save_state(tmp_path, trainee.networks, trainee.optimizers, {"epochs_done": 1})
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(kept if kept >= 1 or not kept else kept * len(data))])
    with pytest.raises(InputError, match=name):
        load_state(tmp_path, trainee.networks, trainee.optimizers)


@pytest.mark.parametrize("name", ["networks.safetensors", "optimizers.safetensors", "progress.json"])
def test_missing_files_are_refused(name: str, tmp_path: Path) -> None:
    trainee = _trainee(GAN, seed=1)
    save_state(tmp_path, trainee.networks, trainee.optimizers, {})
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        load_state(tmp_path, trainee.networks, trainee.optimizers)


@pytest.mark.parametrize("key", ["adam.0.exp_avg", "loose", "critic.x.exp_avg", "critic.0"])
def test_foreign_optimizer_state_is_refused(key: str, tmp_path: Path) -> None:
    trainee = _trainee(GAN, seed=1)
    save_state(tmp_path, trainee.networks, trainee.optimizers, {})
    save_file({key: torch.zeros(2)}, tmp_path / "optimizers.safetensors")
    with pytest.raises(InputError, match=f"{key} belongs to none of the optimizers"):
        load_state(tmp_path, trainee.networks, trainee.optimizers)
