"""What `bench findings` reads from each trained model, and which findings of others it puts to the test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["normal tiles", "foreign patches", "enlarged nuclei"]


@dataclass(frozen=True)
class Model:
    """A training, and the scores that are read from its networks.

    Attributes:
        file: of `configs/train`, without its ending.
        readings: by name, the fields of the detector's configuration that tell how its networks score; they change
            nothing of what is trained.
        learns_from: normal tiles alone, or synthetic anomalies made of them: patches of other tiles, enlarged nuclei.
    """

    file: str
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"score": {}})
    learns_from: Source = "normal tiles"

    def names(self) -> list[str]:
        """Of its readings, as they stand in the table: "vae: kl"."""
        return [f"{self.file}: {reading}" for reading in self.readings]


MODELS = (
    Model("autoencoder", {"reconstruction": {}}),
    Model("vae", {name: {"score": name} for name in ("reconstruction", "kl", "elbo", "kl_gradient")}),
    Model("vae_categorical", {name: {"score": name} for name in ("reconstruction", "kl", "elbo", "kl_gradient")}),
    Model("context_vae", {name: {"score": name} for name in ("elbo", "combined")}),
    Model("vq_vae", {name: {"score": name} for name in ("codes", "reconstruction", "restoration")}),
    Model("diffusion"),
    Model("synthetic_interpolated", learns_from="foreign patches"),
    Model("synthetic_pasted", learns_from="foreign patches"),
    Model("synthetic_blended", learns_from="foreign patches"),
    Model("enlarged_nuclei", learns_from="enlarged nuclei"),
)
"""Models by their configuration files."""


@dataclass(frozen=True)
class Finding:
    """A finding of others: one reading detects better than another.

    Attributes:
        says: what was found, as a sentence.
        better: name of the reading that is said to be better.
        worse: of the other one.
    """

    says: str
    better: str
    worse: str


FINDINGS = (
    Finding("The KL term is the better sample score", "vae: kl", "vae: reconstruction"),
    Finding("The KL term is better than the whole bound", "vae: kl", "vae: elbo"),
    Finding("The gradient of the KL term is better than the reconstruction", "vae: kl_gradient", "vae: reconstruction"),
    Finding("Filling in what was masked helps the bound", "context_vae: elbo", "vae: elbo"),
    Finding(
        "Classes of stain are the better reconstruction target than intensities",
        "vae_categorical: reconstruction",
        "vae: reconstruction",
    ),
    Finding(
        "Of such classes too the gradient of the KL term is better than the reconstruction",
        "vae_categorical: kl_gradient",
        "vae_categorical: reconstruction",
    ),
    Finding("The probability of codes is the better sample score", "vq_vae: codes", "vq_vae: reconstruction"),
    Finding("Restoring improbable codes improves on reconstruction", "vq_vae: restoration", "vq_vae: reconstruction"),
)
"""Of a seminar's comparison of likelihood models, and of Zimmerer et al. 2019 and Marimont and Tarroni 2020. That
synthetic anomalies are better than all others is a finding about groups: the best of each is compared, chosen on tiles
that are not reported."""
