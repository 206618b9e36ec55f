"""Isolation forest on features of a frozen network (Deep IF). https://doi.org/10.1007/978-3-030-33391-1_26 .

Ouardini et al. 2019, "Towards Practical Unsupervised Anomaly Detection on Retinal Images", with the forest of Liu et
al. 2008, https://doi.org/10.1109/ICDM.2008.17 .

As in the papers: features of a network that was trained on natural images, their means over a tile, and a forest of
trees that split at random; few splits isolate what is rare. The forest is scikit-learn's, fitted once, and kept as
arrays: it scores in torch, as scikit-learn does. Different: another network (theirs is Inception-ResNet-v2, of which
there are no free weights here), and a random sample of the tiles that are seen, not all.

What it assumes: what is abnormal is rare in single features. Normal tissue is broader than tumour: fat, blood and glass
are isolated first.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.densities.reservoir import Reservoir
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.features.frozen import (
    BackboneConfig,
    FeatureConfig,
    borrowed,
    build_features,
    channels_of,
    mpp_of,
)
from uadray.detectors.latents import Latent
from uadray.detectors.trainee import Average, Losses
from uadray.errors import InputError
from uadray.networks.outline import Networks

EULER = 0.5772156649015329


class Config(configuration.Config):
    """Deep IF.

    Attributes:
        input_px: side of the tiles' centre that is seen.
        features: of the frozen network; of several vectors a tile, the tile's score is the mean of theirs.
        trees: of the forest (Liu et al. and scikit-learn: 100).
        max_samples: vectors that a tree is grown from (256).
        kept: vectors of which each tree draws its own; a random sample of all that are seen.
    """

    kind: Literal["deep_if"]
    input_px: int = Field(default=96, ge=16, le=2048)
    features: FeatureConfig = BackboneConfig(kind="backbone", name="efficientnet_lite0", layers=("block15",))
    trees: int = Field(default=100, ge=1, le=1000)
    max_samples: int = Field(default=256, ge=2, le=4096)
    kept: int = Field(default=4096, ge=2, le=100_000)

    @property
    def mpp(self) -> float | None:
        """That tiles must have."""
        return mpp_of(self.features)


class Forest(nn.Module):
    """An isolation forest as arrays.

    A tree of s samples has at most 2 s - 1 nodes, and is cut at the depth log2 s. The children of a leaf are itself.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    length: Tensor
    scale: Tensor

    def __init__(self, channels: int, *, trees: int, max_samples: int) -> None:
        super().__init__()
        self.channels, self.max_samples = channels, max_samples
        self.depth = math.ceil(math.log2(max_samples))
        nodes = (trees, 2 * max_samples - 1)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("length", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """2 ** (- mean path length / that of as many samples) (Liu et al. 2008, eq. 2): 1 is isolated at once."""
        trees = torch.arange(len(self.feature), device=vectors.device)
        node = torch.zeros(len(vectors), len(trees), dtype=torch.int64, device=vectors.device)
        for _ in range(self.depth):
            value = vectors.float().gather(1, self.feature[trees, node])
            node = torch.where(value <= self.threshold[trees, node], self.left[trees, node], self.right[trees, node])
        return torch.exp2(-self.length[trees, node].mean(1) / self.scale).float()

    def check(self) -> None:
        """Refuse arrays that name what there is not: on a GPU that would end the process.

        Raises:
            InputError: they do; the bundle is damaged.
        """
        nodes = self.left.shape[1]
        for name, below in (("feature", self.channels), ("left", nodes), ("right", nodes)):
            numbers = self.get_buffer(name)
            if not ((numbers >= 0) & (numbers < below)).all():
                raise InputError(f"forest: {name} has numbers outside 0 to {below - 1}; the bundle is damaged")

    def fit(self, kept: Reservoir, *, seed: int) -> None:
        """Grow the forest of what is kept.

        Raises:
            UnsuitableTilesError: fewer than two vectors are.
        """
        vectors = kept.at_least(2).cpu().numpy()
        from sklearn.ensemble import IsolationForest

        samples = min(self.max_samples, len(vectors))
        grown = IsolationForest(n_estimators=len(self.feature), max_samples=samples, random_state=seed).fit(vectors)
        for number, estimator in enumerate(grown.estimators_):
            self._take(number, estimator.tree_)
        self.scale.fill_(mean_path_length(samples))

    def _take(self, number: int, tree: Any) -> None:
        """Write one tree into the arrays."""
        count, own = tree.node_count, torch.arange(tree.node_count)
        left, right = torch.from_numpy(tree.children_left.copy()), torch.from_numpy(tree.children_right.copy())
        is_leaf = left < 0
        values = {
            "feature": torch.from_numpy(tree.feature.copy()).clamp_min(0),
            "threshold": torch.from_numpy(tree.threshold.copy()),
            "left": torch.where(is_leaf, own, left),
            "right": torch.where(is_leaf, own, right),
            "length": path_lengths(left.tolist(), right.tolist(), tree.n_node_samples.tolist()),
        }
        for name, value in values.items():
            row = self.get_buffer(name)[number]
            row.zero_()
            row[:count] = value.to(row.device, row.dtype)


def mean_path_length(samples: int) -> float:
    """Of a search that fails in a tree of so many samples (Liu et al. 2008, eq. 1, exact at 1 and 2).

    >>> [round(mean_path_length(n), 2) for n in (1, 2, 256)]
    [0.0, 1.0, 10.24]
    """
    if samples <= 2:
        return float(samples - 1) if samples else 0.0
    return 2 * (math.log(samples - 1) + EULER) - 2 * (samples - 1) / samples


def path_lengths(left: list[int], right: list[int], samples: list[int]) -> Float[Tensor, " nodes"]:
    """Depth of each node, plus the length of the path that would go on below it, were its samples isolated too.

    Args:
        left: of every node its left child, below 0 for a leaf; a child stands behind its parent.
        right: its right child.
        samples: that it has.
    """
    depth = [0] * len(left)
    for node, children in enumerate(zip(left, right, strict=True)):
        for child in children:
            if child >= 0:
                depth[child] = depth[node] + 1
    more = [mean_path_length(count) for count in samples]
    return torch.tensor([a + b for a, b in zip(depth, more, strict=True)], dtype=torch.float64)


class ForestScore:
    """Features of a tile -> the mean of their scores, and the map of each. The stage `score`."""

    def __init__(self, forest: nn.Module) -> None:
        if not isinstance(forest, Forest):
            raise TypeError(f"forest: expected Forest, found {type(forest).__name__}")
        forest.check()
        self.forest = forest

    def __call__(
        self, x: Tensor, x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map has one number where there is one vector a tile."""
        f = cast(Tensor, z)
        n, _, height, width = f.shape
        cells: Tensor = self.forest(vectors_of(f)).view(n, height, width)
        return cells.mean((1, 2)), cells


def vectors_of(f: Float[Tensor, "n c h w"]) -> Float[Tensor, "m c"]:
    """One vector a position of each tile."""
    return f.permute(0, 2, 3, 1).flatten(0, 2)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """Those of the features."""
    return borrowed(config.features)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The frozen features, an empty forest, and the sample that it will be grown from.

    Raises:
        InputError: the network has no such layer.
    """
    features = build_features(config.features, pretrained=pretrained)
    channels = channels_of(features)
    forest = Forest(channels, trees=config.trees, max_samples=config.max_samples)
    return {"features": features, "forest": forest, "kept": Reservoir(config.kept, channels)}


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Features, no picture, a forest."""
    return assemble(
        networks,
        mapping=lambda placed: placed["features"],
        reconstruct=no_picture,
        score=lambda placed: ForestScore(placed["forest"]),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Keeps a random sample of the features that it sees, and grows the forest at the end.

    Of several workers each keeps its own, and the first one's forest is the detector's: a sample of its tiles is one
    of all.
    """

    phases: tuple[str, ...] = ("see the tiles",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        forest, kept = networks["forest"], networks["kept"]
        if not isinstance(forest, Forest) or not isinstance(kept, Reservoir):
            raise TypeError(f"forest, kept: found {type(forest).__name__}, {type(kept).__name__}")
        self.config, self.networks = config, networks
        self.features, self.forest, self.kept = networks["features"], forest, kept
        self.optimizers: dict[str, Optimizer] = {}
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """There is none."""
        return ""

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    @torch.no_grad()
    def step(self, x: Tensor, progress: float) -> Losses:
        """See tiles x [N, 3, h, w] in [-1, 1]; how far their features are spread."""
        vectors = vectors_of(self.features(x))
        self.kept.add(vectors)
        return {"deviation": vectors.float().std(0).mean()}

    def finish(self) -> None:
        """Grow the forest."""
        self.forest.fit(self.kept, seed=int(torch.randint(2**31, (), device="cpu")))

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """There is no picture."""
        return None
