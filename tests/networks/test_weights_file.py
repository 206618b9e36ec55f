"""Networks in a file: anything that does not fit is refused at its header."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from uadray.detectors import fanogan
from uadray.detectors.building import build_networks, outline_of
from uadray.errors import InputError
from uadray.networks.outline import outline
from uadray.networks.weights_file import NetworksInFile, load_networks, save_networks

pytestmark = pytest.mark.usefixtures("torch_alone")

GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=8, critic_steps=2)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"generator.start.weight": torch.zeros(2)}, tmp_path / "n.safetensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_networks(tmp_path / "n.safetensors", build_networks(GAN))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"critic.extra": torch.zeros(2)}, "do not fit the critic: .*extra"),
        ({"critic.score.bias": torch.zeros(2)}, "do not fit the critic: .*size mismatch"),
        ({"critic.score.bias": None}, "do not fit the critic: .*score.bias"),
        ({"discriminator.weight": torch.zeros(2)}, "discriminator.weight belongs to none of the networks"),
    ],
)
def test_foreign_tensors_are_refused(change: dict[str, Tensor | None], expected: str, tmp_path: Path) -> None:
    networks = build_networks(GAN)
    path = tmp_path / "n.safetensors"
    save_networks(path, networks)
    tensors = {key: t for key, t in (load_file(path) | change).items() if t is not None}
    save_file(tensors, path)
    with pytest.raises(InputError, match=expected):
        load_networks(path, networks)


def test_networks_are_filled_when_they_are_asked_for(tmp_path: Path) -> None:
    written = build_networks(GAN)
    save_networks(tmp_path / "n.safetensors", written)
    shapes = outline_of(GAN)
    networks = NetworksInFile(tmp_path / "n.safetensors", shapes, source="here")
    assert (len(networks), list(networks)) == (3, ["generator", "critic", "encoder"])
    assert all(p.is_meta for network in shapes.values() for p in network.parameters())
    encoder = networks["encoder"]
    assert networks["encoder"] is encoder
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), written["encoder"].parameters(), strict=True))
    assert all(p.is_meta for name in ("generator", "critic") for p in shapes[name].parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.uint8, torch.bool])
def test_fitted_arrays_of_any_type_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    def made() -> dict[str, nn.Module]:
        bank = nn.Module()
        bank.register_buffer("rows", torch.zeros(4, 3, dtype=dtype))
        return {"bank": bank}

    written = made()
    written["bank"].get_buffer("rows")[1:] = 1
    save_networks(tmp_path / "n.safetensors", written)
    read = outline(made, name="toy")
    load_networks(tmp_path / "n.safetensors", read)
    assert torch.equal(read["bank"].get_buffer("rows"), written["bank"].get_buffer("rows"))
