"""What a detector is given that others have trained: a generator, an autoencoder, an encoder, or members."""

from typing import Any

from uadray.config import parse_config
from uadray.detectors import combined, dpa
from uadray.detectors.building import DetectorConfig
from uadray.detectors.description import BundleDescription
from uadray.detectors.features.frozen import EncoderConfig
from uadray.detectors.features.given_encoder import described_encoder
from uadray.detectors.inversion.generator_part import with_generator
from uadray.detectors.members import Member, read_members
from uadray.errors import InputError
from uadray.generators.bundle import GeneratorBundle, read_generator
from uadray.networks import weights
from uadray.slides.identity import Seen, contents, is_seen
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec, differences
from uadray.training.config import TrainConfig, detector_of
from uadray.training.subject import borrowed_weights


def completed(config: TrainConfig) -> TrainConfig:
    """The configuration with that of its members, autoencoder or generator; with its encoder's sizes.

    What it says itself of tiles has to agree with the members; what it leaves out is theirs, such as a stain reference.
    A generator's tiles have to have the same pixel size, see `check_generator`.

    Raises:
        InputError: a bundle cannot be opened, or other tiles are asked for than the members read.
    """
    detector = config.detector
    if isinstance(uri := getattr(detector, "generator", None), str) and hasattr(detector, "generator_bundle"):
        return _with_generator(config, uri)
    if isinstance(detector, dpa.Config) and detector.autoencoder:
        trained = dpa.read_autoencoder(detector.autoencoder)
        return _with(config, dpa.with_autoencoder(detector, trained.detector), trained.tiles)
    if isinstance(features := getattr(detector, "features", None), EncoderConfig):
        return _with_encoder(config, features)
    if not isinstance(detector, combined.Config):
        return config
    members = read_members(detector.bundles or ())
    if not members:
        raise InputError(f"configuration {config.name}: detector.bundles is missing; name 2 to {combined.MOST} bundles")
    return _with(config, combined.with_members(detector, [m.detector for m in members]), members[0].tiles)


def _with(config: TrainConfig, detector: DetectorConfig, theirs: TileSpec) -> TrainConfig:
    """The configuration with a detector, and with the tiles of those that it is made of.

    Raises:
        InputError: other tiles are asked for.
    """
    asked = config.tiles.model_dump(exclude_unset=True)
    if differing := differences(asked, theirs.model_dump()):
        raise InputError(f"configuration {config.name}: tiles and those of the members differ: {'; '.join(differing)}")
    values = config.model_dump(mode="json") | {"tiles": theirs.model_dump(mode="json")}
    values["detector"] = detector.model_dump()
    return parse_config(TrainConfig, values, source=f"configuration {config.name}")


def _with_generator(config: TrainConfig, uri: str) -> TrainConfig:
    """The configuration with that of the generator that it takes."""
    values = config.model_dump(mode="json") | {"detector": with_generator(detector_of(config), uri)}
    return parse_config(TrainConfig, values, source=f"configuration {config.name}")


def _with_encoder(config: TrainConfig, features: EncoderConfig) -> TrainConfig:
    """The configuration with the sizes of the encoder that it takes, and the resolution that it was trained at."""
    if features.bundle is None:
        raise InputError(
            f"configuration {config.name}: detector.features.bundle is missing; name the bundle of a trained encoder "
            "(uadray train configs/train/self_supervised.yaml)"
        )
    bundle, sizes = described_encoder(features.bundle)
    values = config.model_dump(mode="json")
    values["detector"]["features"] |= {"encoder": sizes.model_dump(mode="json"), "mpp": bundle.tiles.mpp}
    return parse_config(TrainConfig, values, source=f"configuration {config.name}")


def given_encoder(config: TrainConfig) -> BundleDescription | None:
    """The bundle whose encoder gives the detector its features, where its configuration names one."""
    uri = getattr(getattr(config.detector, "features", None), "bundle", None)
    return described_encoder(uri)[0] if uri else None


def given_generator(config: TrainConfig) -> GeneratorBundle | None:
    """The generator that the detector is trained with, where its configuration names one."""
    uri = generator_uri(config)
    return read_generator(uri) if uri else None


def generator_uri(config: TrainConfig) -> str | None:
    """Where that generator lies."""
    generator = getattr(config.detector, "generator", None)
    return generator if isinstance(generator, str) else getattr(config.detector, "generator_bundle", None)


def given_members(config: TrainConfig) -> list[Member]:
    """The trained bundles that a detector is made of: those that it combines, or its autoencoder."""
    autoencoder = getattr(config.detector, "autoencoder", None)
    return read_members([autoencoder] if autoencoder else getattr(config.detector, "bundles", None) or ())


def check_generator(config: TrainConfig) -> None:
    """Refuse a generator that was trained at another resolution.

    Raises:
        InputError: naming both.
    """
    given = given_generator(config)
    if given is not None and given.tiles.mpp != config.tiles.mpp:
        raise InputError(
            f"generator {generator_uri(config)} was trained at {given.tiles.mpp} um/px, not at "
            f"{config.tiles.mpp}; set tiles.mpp to {given.tiles.mpp}"
        )


def check_held_out(config: TrainConfig, rows: list[SlideRow]) -> None:
    """Refuse slides that a bundle was trained on which the detector is made of.

    Raises:
        InputError: naming the slides.
    """
    members = given_members(config)
    if not members:
        return
    known = contents(rows)
    for member in members:
        seen = [r.slide_id for r in rows if is_seen(r, member.trained_on, content=known.get(r.slide_id))]
        if seen:
            more = f" and {len(seen) - 5} more" if len(seen) > 5 else ""
            raise InputError(f"{_held_out(member)}: {', '.join(seen[:5])}{more}")


def check_other_tiles(config: TrainConfig, description: dict[str, Any]) -> None:
    """Refuse the very tiles that a bundle was trained on which the detector is made of; only names of tiles are known.

    Raises:
        InputError: naming the member.
    """
    for member in given_members(config):
        same = {name for name in ("fingerprint", "n_tiles") if member.training_data.get(name) == description[name]}
        if len(same) == 2:
            raise InputError(f"{_held_out(member)}: number and names are those of its tiles")


def _held_out(member: Member) -> str:
    return (
        "it is fitted on normal tiles that none of the bundles in it was trained on (whose scores are too low); "
        f"member {member.name} ({member.detector.kind}) was trained on some of these"
    )


def seen_before(config: TrainConfig) -> Seen | None:
    """The slides that the given generator or encoder was trained on: the detector has seen them as well."""
    given = given_generator(config) or given_encoder(config)
    return given.trained_on if given is not None else None


def parts_of(config: TrainConfig) -> dict[str, Any]:
    """What a bundle's `training_data` says of what was given: the id of a generator or encoder, the members' data."""
    generator, encoder, members = given_generator(config), given_encoder(config), given_members(config)
    if members:
        return {"members": [member.training_data | {"id": member.id} for member in members]}
    given = {"generator": generator, "encoder": encoder}
    return {name: bundle.id for name, bundle in given.items() if bundle is not None}


def licences(config: TrainConfig) -> dict[str, str]:
    """The licences of all weights inside that others published, by their names."""
    names = borrowed_weights(config)
    given = [*given_members(config), given_generator(config), given_encoder(config)]
    licences = {entry.name: entry.licence for entry in weights.registry() if entry.name in names}
    for bundle in given:
        licences |= bundle.licences if bundle is not None else {}
    return licences
