"""A ready detector -> a whole bundle: the frozen backbone of the installation, and what was fitted.

What comes out is the bundle that was trained, byte for byte, wherever it is put together: the SHA-256 of its weights is
in the package, and other bytes are not written.
"""

import hashlib

import torch
from safetensors.torch import load_file
from torch import Tensor

from uadray.config import parse_config
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import DESCRIPTION, WEIGHTS, Bundle, read_bundle
from uadray.errors import InputError, WorkError
from uadray.networks.backbones import Backbone
from uadray.networks.bundle_folder import write_folder
from uadray.networks.outline import Networks
from uadray.ready.entries import FITTED, Entry
from uadray.storage import objects


def write_ready(entry: Entry, uri: str) -> bool:
    """Write the bundle into a folder or s3:// prefix; tells whether it had to: what is there already stays.

    Raises:
        InputError: another bundle lies there.
        WorkError: the backbone or the fitted part of this installation is not what the bundle was made of.
    """
    if _is_there(entry, uri):
        return False
    bundle = parse_config(Bundle, entry.bundle.model_dump(), source=f"ready bundle {entry.name}")

    def described(sha256: str) -> Bundle:
        if sha256 != bundle.weights_sha256:
            raise WorkError(
                f"ready bundle {entry.name}: put together here it has SHA-256 {sha256}, expected "
                f"{bundle.weights_sha256}; `uadray weights verify` checks the backbone; else install uadray anew"
            )
        return bundle

    write_folder(uri, networks_of(entry, bundle), described)
    return True


def networks_of(entry: Entry, bundle: Bundle) -> Networks:
    """The networks with all their weights in them.

    Raises:
        WorkError: what was fitted does not fit the networks of this installation.
    """
    networks = build_networks(bundle.detector)
    fitted = load_file(entry.folder / FITTED)
    borrowed = borrowed_keys(networks)
    if fitted.keys() != tensors_of(networks).keys() - borrowed:
        raise WorkError(f"ready bundle {entry.name}: {FITTED} is not of these networks; install uadray again")
    with torch.no_grad():
        for key, tensor in tensors_of(networks).items():
            if key not in borrowed:
                tensor.copy_(fitted[key])
    return networks


def tensors_of(networks: Networks) -> dict[str, Tensor]:
    """Every tensor of every network, by `<network>.<tensor>` as in a bundle's weights."""
    return {f"{name}.{key}": tensor for name, each in networks.items() for key, tensor in each.state_dict().items()}


def borrowed_keys(networks: Networks) -> set[str]:
    """The tensors of frozen backbones, which are pinned weights."""
    return {
        ".".join(part for part in (name, path, key) if part)
        for name, network in networks.items()
        for path, module in network.named_modules()
        if isinstance(module, Backbone)
        for key in module.state_dict()
    }


def _is_there(entry: Entry, uri: str) -> bool:
    """Whether this very bundle lies there whole; one whose weights were cut off is written again."""
    if not objects.exists(objects.join(uri, DESCRIPTION)):
        return False
    there = read_bundle(uri)
    if there.id != entry.bundle.id:
        raise InputError(f"{uri} holds another bundle, {there.name} ({there.id}): pull into another folder")
    weights_uri = objects.join(uri, WEIGHTS)
    if not objects.exists(weights_uri) or objects.stat(weights_uri).size != entry.measured.size_bytes:
        return False
    data = objects.read_bytes(weights_uri, max_bytes=entry.measured.size_bytes)
    return hashlib.sha256(data).hexdigest() == entry.bundle.weights_sha256
