"""Rows `<mapping>@<generator>` of `bench detectors`: ways to the closest normal tile, over generators that are trained.

A mapping is a configuration of `configs/train/mappings`. Its generator is the one that is given, and so are its tiles;
what it trains besides (an encoder, what normal tiles have of each term) has the budget of minutes that its row states.
What the generator was shown stands in the row too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from uadray.bench.detector_rows import Row
from uadray.config import parse_config
from uadray.detectors.building import DetectorConfig
from uadray.detectors.inversion.latent_space import spaces_of
from uadray.errors import InputError
from uadray.generators.bundle import GeneratorBundle, read_generator
from uadray.provenance import fingerprint
from uadray.training.config import TrainConfig, detector_of
from uadray.training.given import completed

FOLDER = "mappings"
"""Within `configs/train`."""


def mapping_rows(folder: Path, generators: Mapping[str, str]) -> tuple[list[Row], dict[str, str]]:
    """Each mapping over each generator that it fits, by generator; and by name why a row is not there.

    Args:
        folder: of the configurations.
        generators: URIs of trained generators by their names.

    Raises:
        InputError: a generator or a configuration cannot be read, or there is no configuration.
    """
    found: list[Row] = []
    left_out: dict[str, str] = {}
    paths = sorted(folder.glob("*.yaml"))
    if generators and not paths:
        raise InputError(f"bench detectors --generator: no configuration in {folder}")
    for name, uri in generators.items():
        bundle = read_generator(uri)
        for path in paths:
            row = f"{path.stem}@{name}"
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            if why := unfit(values["detector"], bundle):
                left_out[row] = why
            else:
                found.append(_row(row, path, values, name, uri, bundle))
    return found, left_out


def unfit(detector: Mapping[str, Any], bundle: GeneratorBundle) -> str:
    """Why a detector cannot be had over a generator: it names a latent space that this has not. "" where it can."""
    wanted = detector.get("space", "z")
    if wanted not in spaces_of(bundle.generator):
        return f"a {bundle.generator.kind} has no latent space {wanted}"
    return ""


def _row(row: str, path: Path, values: dict[str, Any], name: str, uri: str, bundle: GeneratorBundle) -> Row:
    source = f"configs/train/{FOLDER}/{path.name}"
    given = values | {"tiles": bundle.tiles.model_dump(mode="json")}
    given["detector"] = values["detector"] | {"generator": uri, "input_px": bundle.generator.input_px}
    config = completed(parse_config(TrainConfig, given, source=source))
    about = {
        "mapping": {"name": path.stem, "kind": detector_of(config).kind} | search_of(detector_of(config)),
        "generator": {
            "name": name, "kind": bundle.generator.kind, "bundle": bundle.id, "images_shown": images_shown(bundle),
        },
    }  # fmt: skip
    return Row(row, "mapping", config, source, identity_of(config, bundle), about)


def identity_of(config: TrainConfig, bundle: GeneratorBundle) -> str:
    """Of a configuration and the generator that it is given, wherever that lies."""
    values = config.model_dump(mode="json")
    values["detector"] |= {"generator": None, "generator_bundle": None}
    return fingerprint([json.dumps(values, sort_keys=True), bundle.id])


def search_of(detector: DetectorConfig) -> dict[str, Any]:
    """The latent space that a configuration names, and the steps of its search at the most; 0 where there is none."""
    sizes = getattr(detector, "descent", detector)
    return {"space": getattr(detector, "space", None) or "", "steps": getattr(sizes, "steps", 0)}


def images_shown(bundle: GeneratorBundle) -> float | None:
    """Images that a generator was trained with, counted in all workers; None where it does not say."""
    shown = bundle.metrics.get("images_shown", bundle.training_data.get("crops"))
    return None if shown is None else float(shown)
