"""Networks by name, and their shapes before any memory is taken for them."""

from collections.abc import Callable

import torch
from torch import nn

from uadray.errors import InputError

Networks = dict[str, nn.Module]

MAX_PARAMETERS = 500_000_000
"""Of all networks together: 2 GB. VGG19 to its last layer has 20 million, f-AnoGAN of the paper's size 30."""


def outline(build: Callable[[], Networks], *, name: str) -> Networks:
    """The networks that `build` makes as names and shapes alone, on torch's device `meta`: nothing is allocated.

    A configuration may come with somebody's bundle. Each size in it is bounded, and so is what they make together.

    Args:
        build: makes the networks, without published weights.
        name: what errors call them.

    Raises:
        InputError: they would have more than `MAX_PARAMETERS`.
    """
    with torch.device("meta"):
        networks = build()
    count = sum(t.numel() for network in networks.values() for t in network.state_dict().values())
    if count > MAX_PARAMETERS:
        raise InputError(f"{name}: {count:,} parameters, at most {MAX_PARAMETERS:,} are built; lower width")
    return networks
