"""A trained bundle -> the files of a ready detector, which come with uadray."""

from pathlib import Path

import torch
from safetensors.torch import save

from uadray.detectors.building import build_networks, outline_of
from uadray.detectors.bundle import WEIGHTS, Bundle, read_bundle
from uadray.detectors.description import BundleDescription
from uadray.errors import InputError
from uadray.networks.bundle_folder import opened_weights
from uadray.networks.outline import Networks
from uadray.ready import entries
from uadray.ready.assembly import borrowed_keys, tensors_of
from uadray.ready.entries import ABOUT, BUNDLE, FITTED, MEASURED, READY, About, Entry, Figures, Measured
from uadray.storage import objects

MAX_FITTED_BYTES = 5_000_000
"""Of what comes with uadray for one detector."""


def pack(bundle_uri: str, *, name: str, figures: Figures | None = None, root: Path = READY) -> Entry:
    """Write a bundle's files for the package, without its backbone. `about.json` must be there: a person writes it.

    Figures stay only with the weights that they were measured with.

    Args:
        bundle_uri: of a trained bundle.
        name: of the ready detector.
        figures: that were measured with it; None keeps those of the same weights, and no others.
        root: the folder of all ready detectors.

    Raises:
        InputError: there is no bundle or no `about.json`; the bundle was trained on slides, whose marks would be given
            away; its backbone is not the pinned one; or what was fitted is too large.
    """
    bundle, folder = read_bundle(bundle_uri), root / entries.folder_name(name)
    entries.read_file(folder / ABOUT, About)
    if bundle.trained_on.marks or bundle.trained_on.others:
        raise InputError(f"bundle {bundle_uri} names the slides it was trained on: a ready one is trained on tile sets")
    with opened_weights(bundle_uri, outline_of(bundle.detector), sha256=bundle.weights_sha256) as trained:
        fitted = _fitted(bundle_uri, bundle, dict(trained))
    size_bytes = objects.stat(objects.join(bundle_uri, WEIGHTS)).size
    figures = figures or _figures_there(folder, bundle)
    (folder / FITTED).write_bytes(save(fitted))
    (folder / MEASURED).write_text(_as_json(Measured(size_bytes=size_bytes, figures=figures)), encoding="utf-8")
    (folder / BUNDLE).write_text(_as_json(bundle), encoding="utf-8")
    return entries.entry_named(name, root)


def _fitted(uri: str, bundle: Bundle, trained: Networks) -> dict[str, torch.Tensor]:
    """The tensors that are not the backbone's, which have to be equal to the pinned ones."""
    pinned = tensors_of(build_networks(bundle.detector))
    tensors, borrowed = tensors_of(trained), borrowed_keys(trained)
    for key in sorted(borrowed):
        if not torch.equal(tensors[key], pinned[key]):
            raise InputError(
                f"bundle {uri}: {key} is not that of the pinned weights; only a frozen backbone is left out"
            )
    fitted = {key: tensor.contiguous() for key, tensor in tensors.items() if key not in borrowed}
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in fitted.values())
    if n_bytes > MAX_FITTED_BYTES:
        raise InputError(
            f"bundle {uri}: {n_bytes:,} bytes were fitted, at most {MAX_FITTED_BYTES:,} go into the package"
        )
    return fitted


def _figures_there(folder: Path, bundle: Bundle) -> Figures | None:
    """The figures that lie there, if they are of this bundle."""
    if not (folder / BUNDLE).exists() or not (folder / MEASURED).exists():
        return None
    before = entries.read_file(folder / BUNDLE, BundleDescription)
    return entries.read_file(folder / MEASURED, Measured).figures if before.id == bundle.id else None


def _as_json(values: Bundle | Measured) -> str:
    return values.model_dump_json(indent=2) + "\n"


def read_figures(path: str) -> Figures:
    """Figures out of a JSON file.

    Raises:
        InputError: it is not there, or does not say what it should.
    """
    return entries.read_file(Path(path), Figures)
