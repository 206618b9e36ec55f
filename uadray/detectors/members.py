"""The bundles that are combined: what they say of themselves, whether they read the same tiles, and their networks."""

from collections.abc import Sequence
from itertools import combinations

from uadray.config import parse_config
from uadray.detectors.catalog import SingleConfig, file_of
from uadray.detectors.description import BundleDescription, detector_description
from uadray.errors import InputError
from uadray.networks.bundle_folder import opened_weights
from uadray.networks.outline import Networks, outline
from uadray.tiles.spec import differences


class Member(BundleDescription):
    """`bundle.json` of a member: of a detector that stands alone."""

    detector: SingleConfig  # type: ignore[assignment]  # has `kind` and `input_px` as every `Architecture`


def read_members(uris: Sequence[str]) -> list[Member]:
    """The members in their order.

    Raises:
        InputError: one is no bundle or a combination itself, is there twice, or reads other tiles than the others.
    """
    members = [read_member(uri) for uri in uris]
    for (uri, member), (other_uri, other) in combinations(zip(uris, members, strict=True), 2):
        if member.id == other.id:
            raise InputError(f"{uri} and {other_uri} are the same bundle ({member.id}); name it once")
        differing = differences(member.tiles.model_dump(), other.tiles.model_dump())
        if differing:
            raise InputError(
                f"bundles {uri} and {other_uri} read different tiles: {'; '.join(differing)}; a combined detector "
                "reads each tile once for all its members: train them on the same"
            )
    return members


def read_member(uri: str) -> Member:
    """What a member's `bundle.json` says.

    Raises:
        InputError: no bundle there, one that says what no bundle may, or a combination itself.
    """
    values = detector_description(uri)
    detector = values.get("detector")
    if isinstance(detector, dict) and detector.get("kind") == "combined":
        raise InputError(f"bundle {uri} is a combination itself; name the bundles that it was made of")
    return parse_config(Member, values, source=f"bundle {uri}")


def load_member(uri: str, member: Member) -> Networks:
    """The trained networks of a member by name, on the CPU.

    Raises:
        InputError: the weights are damaged, too large, or not those that `bundle.json` describes.
    """
    with opened_weights(uri, outline_of(member.detector), sha256=member.weights_sha256) as networks:
        return dict(networks)


def outline_of(config: SingleConfig) -> Networks:
    """The networks of a member as shapes alone, see `uadray.networks.outline`.

    Raises:
        InputError: they are too large together, or cannot be built.
    """
    return outline(lambda: file_of(config).networks(config, pretrained=False), name=f"detector {config.kind}")
