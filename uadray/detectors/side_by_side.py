"""The stages of a combined detector: each is that of all its members, side by side.

Stages of the members are those that they have by themselves, so that their scores are the same numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors.detector import Detector
from uadray.detectors.latents import Latent
from uadray.detectors.p_values import RULES, Rule
from uadray.networks.remembered import Memory


class MembersMap:
    """x -> every member's z, in their order."""

    def __init__(self, members: Sequence[Detector]) -> None:
        self.members, self.memory = members, Memory()

    def __call__(self, x: Tensor) -> Latent:
        """Of the centre that each looks at."""
        with self.memory.batch():
            return tuple(member.mapping(middle(x, member.input_px)) for member in self.members)


class ShownPicture:
    """z -> the picture of the first member that makes one, white around it where that member looks at less."""

    def __init__(self, members: Sequence[Detector], *, side_px: int) -> None:
        self.members, self.side_px = members, side_px
        self.shown = first_with_picture(members)

    def __call__(self, z: Latent) -> Tensor | None:
        """x_hat [N, 3, side, side], or None where no member makes a picture."""
        if self.shown is None:
            return None
        x_hat = self.members[self.shown].reconstruct(z[self.shown])
        margin = (self.side_px - self.members[self.shown].input_px) // 2
        return None if x_hat is None else F.pad(x_hat, [margin] * 4, value=1.0)


class CombinedScore:
    """(x, x_hat, z) -> the combination of the members' scores; the map is that of one member, see `with_map`.

    x_hat is the picture that is shown. Those of other members are made here, of their z, which is far smaller.
    """

    def __init__(
        self, members: Sequence[Detector], normal: nn.Module, *, rule: Rule, weights: Sequence[float] | None
    ) -> None:
        self.members, self.normal, self.rule, self.memory = members, normal, RULES[rule], Memory()
        given = torch.tensor(weights or [1.0] * len(members), dtype=torch.float64)
        self.weights = given / given.mean()
        self.shown = first_with_picture(members)
        self.mapped = with_map(members)

    def __call__(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        """Scores in float64, and a map."""
        scores, maps = self.of_members(x, x_hat, z)
        return self.rule(self.normal(scores), self.weights.to(x.device)), maps[self.mapped]

    def of_members(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, list[Tensor]]:
        """The members' own scores [k, N] and their maps."""
        with self.memory.batch():
            pairs = [self._of_member(number, x, x_hat, z[number]) for number in range(len(self.members))]
        return torch.stack([score.double() for score, _ in pairs]), [map_ for _, map_ in pairs]

    def _of_member(self, number: int, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        member = self.members[number]
        shown = middle(x_hat, member.input_px) if x_hat is not None else None
        return member.score(middle(x, member.input_px), shown if number == self.shown else _made(member, z), z)


def _made(member: Detector, z: Latent) -> Tensor | None:
    """A member's picture in the precision of the stage before, see `uadray.detectors.precision`."""
    with torch.autocast(member.device.type, enabled=False):
        return member.reconstruct(z)


def first_with_picture(members: Sequence[Detector]) -> int | None:
    """The number of the first member that makes pictures."""
    return next((number for number, member in enumerate(members) if member.has_picture), None)


def with_map(members: Sequence[Detector]) -> int:
    """The number of the member whose map is kept: of those that see all of x the first with cells, or the first."""
    side_px = max(member.input_px for member in members)
    widest = [number for number, member in enumerate(members) if member.input_px == side_px]
    return next((number for number in widest if members[number].has_cells), widest[0])


def middle(x: Tensor, side_px: int) -> Tensor:
    """The centre [N, 3, side, side] of x, as a member would have it in memory."""
    margin = (x.shape[-1] - side_px) // 2
    if not margin:
        return x
    part = x[..., margin : margin + side_px, margin : margin + side_px]
    return part.contiguous(memory_format=torch.channels_last)
