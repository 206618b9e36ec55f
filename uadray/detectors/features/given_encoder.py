"""The encoder of a bundle that was trained by self-supervision, taken from it by other detectors."""

from typing import Any

from uadray.config import parse_config
from uadray.detectors.description import BundleDescription, detector_description
from uadray.detectors.features.encoders import Config, EncoderFeatures
from uadray.errors import InputError
from uadray.networks.bundle_folder import load_part

KIND, NETWORK = "self_supervised", "features"
"""Kind of the detector that has an encoder, and the name of that network."""


def described_encoder(uri: str) -> tuple[BundleDescription, Config]:
    """What the bundle says of itself, and the sizes of its encoder.

    Raises:
        InputError: no bundle there, one that says what no bundle may, or one without an encoder.
    """
    values = detector_description(uri)
    detector: Any = values.get("detector")
    if not isinstance(detector, dict) or detector.get("kind") != KIND:
        kind = detector.get("kind") if isinstance(detector, dict) else None
        raise InputError(f"bundle {uri} is of kind {str(kind)[:40]!r}; an encoder is taken from one of kind {KIND}")
    sizes = parse_config(Config, detector.get("encoder", {}), source=f"bundle {uri}: detector.encoder")
    return parse_config(BundleDescription, values, source=f"bundle {uri}"), sizes


def load_given(uri: str, features: EncoderFeatures, *, sizes: Config) -> None:
    """Fill an encoder with the weights of the one in a bundle.

    Raises:
        InputError: see `described_encoder`; or it has other sizes: it is another than when the training began.
    """
    description, theirs = described_encoder(uri)
    if theirs != sizes:
        raise InputError(f"bundle {uri} has another encoder than when this training began; train into another --out")
    load_part(uri, {NETWORK: features}, sha256=description.weights_sha256)
