"""Several detectors as one: the p-values of their scores among held-out normal tiles, combined into one score.

Scores of two detectors have different units and different tails; their p-values among the same normal tiles compare
(`uadray.detectors.p_values` has the rules and their sources). The members are trained bundles, and stand still. They
read the same tiles, once, each the centre that it was made for. What is fitted is how their scores are distributed over
normal tiles that none of them was trained on: their scores of those that they were trained on are too low, of the one
more than of the other.

What it assumes: a member finds what the other misses, and none is much worse than the others: each costs its time for
every tile, and a weak one costs the strong more than it gives (DECISIONS.md).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, StringConstraints, field_serializer, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.catalog import SingleConfig, file_of
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, default_batch, no_picture
from uadray.detectors.members import load_member, read_member
from uadray.detectors.p_values import NormalScores, Rule
from uadray.detectors.side_by_side import CombinedScore, MembersMap, ShownPicture, first_with_picture, with_map
from uadray.detectors.trainee import Average
from uadray.errors import InputError
from uadray.networks.outline import Networks
from uadray.networks.remembered import Memory

MOST = 8
"""Members of one detector; each costs its time for every tile."""

Weight = Annotated[float, Field(ge=1e-3, le=1e3)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class Config(configuration.Config):
    """Several detectors as one.

    Attributes:
        input_px: side of the widest member's input; set by the members.
        members: their configurations, in the order of `bundles`, from which they are read when a training begins.
        bundles: URIs of the members' bundles, in training alone: a combined bundle has their networks inside.
        rule: how p-values become a score, see `uadray.detectors.p_values`.
        weights: of the members, in their order; None: all count alike. Only their ratios matter.
        bins: in which scores are counted; 200 of the 90 % between the tails tell p to half a percent.
    """

    kind: Literal["combined"]
    input_px: int = Field(default=8, ge=8, le=1024)
    members: tuple[SingleConfig, ...] = Field(default=(), max_length=MOST)
    bundles: tuple[Uri, ...] | None = Field(default=None, min_length=2, max_length=MOST)
    rule: Rule = "fisher"
    weights: tuple[Weight, ...] | None = Field(default=None, min_length=2, max_length=MOST)
    bins: int = Field(default=200, ge=20, le=10_000)

    @model_validator(mode="after")
    def _members_fit(self) -> "Config":
        n = len(self.members or self.bundles or ())
        if n < 2:
            raise ValueError(f"combined takes 2 to {MOST} bundles: name them, bundles: [URI, URI]")
        if self.weights is not None and len(self.weights) != n:
            raise ValueError(f"weights has {len(self.weights)} numbers for {n} members")
        if self.members and self.bundles is not None and len(self.bundles) != n:
            raise ValueError(f"{len(self.bundles)} bundles for {n} members")
        if self.members:
            check_sides(self.members, input_px=self.input_px)
        return self

    @field_serializer("members")
    def _without_none(self, members: tuple[SingleConfig, ...]) -> list[dict[str, object]]:
        """A field that is None does not count in a bundle's id, see `bundle_description.bundle_id`: nor within."""
        return [member.model_dump(mode="json", exclude_none=True) for member in members]


def check_sides(members: Sequence[SingleConfig], *, input_px: int) -> None:
    """Refuse members whose inputs are not centres of the widest.

    Raises:
        ValueError: naming their sides.
    """
    sides = [member.input_px for member in members]
    if input_px != max(sides):
        raise ValueError(f"input_px {input_px} is not the largest of the members' ({max(sides)})")
    if len({side % 2 for side in sides}) > 1:
        raise ValueError(f"members of {sides} px have no common centre: all sides must be even, or all odd")


def with_members(config: Config, members: Sequence[SingleConfig]) -> Config:
    """The configuration with those of the members.

    Raises:
        ValueError: they do not fit each other, or the configuration says otherwise (pydantic's).
    """
    sides = {"input_px": max(m.input_px for m in members)} if "input_px" not in config.model_fields_set else {}
    values = config.model_dump(exclude={"members"}) | sides
    return Config.model_validate(values | {"members": [member.model_dump() for member in members]})


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None: what the members borrowed lies in their bundles, with its licence."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The members' networks, their names after `member0_`, `member1_`, ..., and `normal`, which is fitted.

    Args:
        config: with its `members`.
        pretrained: read them from `config.bundles`, where it names them.

    Raises:
        InputError: a bundle cannot be opened, or is another than when the training began.
    """
    if not config.members:
        raise InputError("combined: the members are not known; `uadray train` reads them from their bundles")
    named: Networks = {}
    for number, member in enumerate(config.members):
        uri = config.bundles[number] if config.bundles and pretrained else None
        trained = _trained(uri, member) if uri else file_of(member).networks(member, pretrained=False)
        named |= {_name(number, name): network for name, network in trained.items()}
    return named | {"normal": NormalScores(len(config.members), bins=config.bins)}


def _trained(uri: str, expected: SingleConfig) -> Networks:
    member = read_member(uri)
    if member.detector != expected:
        raise InputError(f"bundle {uri} is another detector than when this training began; train into another --out")
    return load_member(uri, member)


def _name(number: int, name: str) -> str:
    return f"member{number}_{name}"


class MemberNetworks(Mapping[str, nn.Module]):
    """One member's networks among those of all, by its own names; each is asked for when it is used."""

    def __init__(self, networks: Mapping[str, nn.Module], number: int) -> None:
        self._networks, self._prefix = networks, _name(number, "")

    def __getitem__(self, name: str) -> nn.Module:
        return self._networks[f"{self._prefix}{name}"]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._networks if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """The stages of all members, side by side; with the map of the widest come its cells, if it has any."""
    members = partial(built_members, config, networks, device=device)
    unloaded = members(stages=())

    def picture(placed: Mapping[str, nn.Module]) -> ShownPicture:
        return ShownPicture(members(stages=["reconstruct"]), side_px=config.input_px)

    return assemble(
        networks,
        mapping=lambda placed: MembersMap(members(stages=["map"])),
        reconstruct=picture if first_with_picture(unloaded) is not None else no_picture,
        score=lambda placed: CombinedScore(
            members(stages=["reconstruct", "score"]), placed["normal"], rule=config.rule, weights=config.weights
        ),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
        has_cells=unloaded[with_map(unloaded)].has_cells, memory=Memory(),
        searches=any(member.searches for member in unloaded),
    )  # fmt: skip


def built_members(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, stages: Collection[Stage] = STAGES
) -> list[Detector]:
    """The detector of each member, of which only `stages` are made."""
    return [
        file_of(member).detector(member, MemberNetworks(networks, number), device=device, stages=stages)
        for number, member in enumerate(config.members)
    ]


class Trainee:
    """Sees held-out normal tiles and keeps how the members' scores are distributed; the members stand still."""

    phases: tuple[str, ...] = ("held-out normals",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.networks, self.average = networks, average
        self.normal = cast(NormalScores, networks["normal"])
        self.optimizers: dict[str, Optimizer] = {}
        self.counts: dict[str, int] = {}
        device = self.normal.edges.device
        self.batch_tiles, self.memory = default_batch(config.input_px, device.type), Memory()
        members = built_members(config, networks, device=str(device))
        self.mapping, self.picture = MembersMap(members), ShownPicture(members, side_px=config.input_px)
        self.score = CombinedScore(members, self.normal, rule=config.rule, weights=config.weights)

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """There is none."""
        return ""

    def prepare(self, x: Tensor) -> None:
        """Place the bins, by the scores of x [N, 3, h, w] and those of all workers.

        Raises:
            UnsuitableTilesError: a member gives nearly all tiles the same score; in all workers.
        """
        self.normal.place(self.member_scores(x))
        self.average([self.normal.edges])
        self.normal.check_edges()

    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """Count the scores of x [N, 3, h, w], those of all workers; the mean score of each member."""
        scores = self.member_scores(x)
        tally = self.normal.tally(scores)
        self.average([tally])
        self.normal.add(tally)
        return {f"score{number}": mean for number, mean in enumerate(scores.mean(1).tolist())}

    @torch.no_grad()
    def member_scores(self, x: Tensor) -> Tensor:
        """[k, N], as they will be: members in evaluation mode, in the batches of a detector."""
        for network in self.networks.values():
            network.eval()
        parts = []
        for batch in x.split(self.batch_tiles):
            with self.memory.batch():
                z = self.mapping(batch)
                parts.append(self.score.of_members(batch, self.picture(z), z)[0])
        return torch.cat(parts, 1)

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor | None:
        """The picture that is shown."""
        return self.picture(self.mapping(x))
