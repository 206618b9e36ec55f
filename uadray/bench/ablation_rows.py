"""The rows of `bench ablations`: what is trained, and which differences the paper states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uadray.detectors import dpa
from uadray.errors import InputError

PUBLISHED: dict[str, Any] = {
    "kind": "dpa", "input_px": 64, "layout": "published", "backbone": "vgg16", "layers": ["relu4_2"], "width": 4,
    "halvings": 3, "latent_channels": 4, "learning_rate": 1e-3, "schedule": "constant",
}  # fmt: skip
"""As `configs/train/dpa_published.yaml`."""

SMALL: dict[str, Any] = {"backbone": "efficientnet_lite0", "layers": ["block4"]}
"""Instead of VGG16's relu4_2, for two cores: a step takes a tenth of the time."""

GROWING = [
    {"side_px": 16, "layers": ["relu3_2"], "steady": 20000},
    {"side_px": 32, "layers": ["relu3_2"], "fading": 20000, "steady": 20000},
    {"side_px": 64, "layers": ["relu4_2"], "fading": 20000, "steady": 8666},
]
L1 = {"pixel_loss": "l1", "score": "loss"}
UNSUPERVISED = {"halvings": 2, "width": 64, "latent_channels": 64, "learning_rate": 1e-4}
ADVERSARIAL_RATE = {"learning_rate": 2e-4}

ABLATIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "growing": {"growing": GROWING},
    "with_l1_1": L1 | {"pixel_weight": 1.0},
    "with_l1_0.1": L1 | {"pixel_weight": 0.1},
    "with_adversarial_1": ADVERSARIAL_RATE | {"adversarial": {"weight": 1.0}},
    "with_adversarial_0.1": ADVERSARIAL_RATE | {"adversarial": {"weight": 0.1}},
    "with_adversarial_l1_1": ADVERSARIAL_RATE | L1 | {"pixel_weight": 1.0, "adversarial": {"weight": 1.0}},
    "with_adversarial_l1_0.1": ADVERSARIAL_RATE | L1 | {"pixel_weight": 0.1, "adversarial": {"weight": 0.1}},
    "unsupervised": UNSUPERVISED,
    "l1_unsupervised": L1
    | {"halvings": 2, "width": 32, "latent_channels": 32, "learning_rate": 2e-4}
    | {"perceptual_weight": 0.0, "pixel_weight": 1.0},
}
"""By row, what differs from `PUBLISHED`."""

BUDGETS = (300, 1000, 3000, 10_000, 34_666)

DIRECTIONS = (
    ("unsupervised", "l1_unsupervised", "a perceptual loss is much better than L1"),
    ("growing", "published", "growing adds about 1 % on medical images"),
    ("published", "unsupervised", "sizes chosen with few anomalies are better than those chosen without"),
    *((("published", f"with_{name}_{weight}", f"{name} added at weight {weight} hurts"))
      for name in ("l1", "adversarial", "adversarial_l1") for weight in ("1", "0.1")),
)  # fmt: skip
"""The better row, the worse row, and what summaries of the paper say of them."""


@dataclass(frozen=True)
class Row:
    """A training.

    Attributes:
        name: of the row.
        detector: what is trained.
        steps: of it.
    """

    name: str
    detector: dpa.Config
    steps: int


def rows(steps: int, *, is_small: bool = False) -> list[Row]:
    """All rows: the ablations at so many steps, and the budgets; with the small backbone or as published."""
    ablations = [Row(name, _detector(changes, is_small), steps) for name, changes in ABLATIONS.items()]
    return ablations + [Row(f"budget_{budget}", _detector({}, is_small), budget) for budget in BUDGETS]


def _detector(changes: dict[str, Any], is_small: bool) -> dpa.Config:
    detector = PUBLISHED | changes
    if is_small:
        detector |= SMALL
        if "growing" in detector:
            detector["growing"] = [
                each | {"layers": ["block4" if each["side_px"] == detector["input_px"] else "block2"]}
                for each in detector["growing"]
            ]
    return dpa.Config.model_validate(detector)


def chosen(only: Sequence[str], every: Sequence[Row]) -> list[Row]:
    """The rows of these names.

    Raises:
        InputError: there is no such row.
    """
    groups = {"ablations": list(ABLATIONS), "budgets": [f"budget_{budget}" for budget in BUDGETS]}
    names = {name for each in only or ["ablations"] for name in groups.get(each, [each])}
    if unknown := names - {row.name for row in every}:
        known = ", ".join([*groups, *(row.name for row in every)])
        raise InputError(f"bench ablations has no row {', '.join(sorted(unknown))}; there are: {known}")
    return [row for row in every if row.name in names]
