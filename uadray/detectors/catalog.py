"""Every detector that stands alone, by its configuration: a union, one member a line, and one `match`, one case a line.

A detector is one file with five names. To add one, write the file and add its two lines below (what combines several of
these, and what builds any of them, is in `uadray.detectors.building`):

    Config            frozen pydantic model with `kind: Literal[...]` and `input_px`; every size in it is bounded
    networks          its networks by name, untrained; `pretrained` loads what others trained (a backbone, a generator)
    borrowed_weights  names of the pinned weights that it needs, pulled before a training and named with their licences
    Trainee           the detector in training, see `uadray.detectors.trainee`
    detector          its three stages with trained networks in them, see `uadray.detectors.detector`

The file's docstring begins with what it is, and has a paragraph "What it assumes: ..."; cards of bundles print both.
"""

import inspect
import re
import sys
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field
from torch import nn

from uadray.detectors import (
    adversarial_autoencoder,
    alocc,
    anogan,
    autoencoder,
    context_vae,
    dagmm,
    deep_geo,
    deep_if,
    deep_svdd,
    diffusion,
    dpa,
    dsebm,
    enlarged_nuclei,
    fanogan,
    ganomaly,
    hybrid,
    mahalanobis,
    memory_autoencoder,
    neighbours,
    ocgan,
    piad,
    projection,
    restoration,
    self_supervised,
    synthetic_anomalies,
    trainee,
    tuned_nuclei,
    vae,
    vae_gan,
    vq_vae,
)
from uadray.detectors.detector import STAGES, Detector, Stage
from uadray.networks.outline import Networks

SingleConfig = Annotated[
    adversarial_autoencoder.Config  # with `|`, one a line
    | alocc.Config
    | anogan.Config
    | autoencoder.Config
    | context_vae.Config
    | dagmm.Config
    | deep_geo.Config
    | deep_if.Config
    | deep_svdd.Config
    | diffusion.Config
    | dpa.Config
    | dsebm.Config
    | enlarged_nuclei.Config
    | fanogan.Config
    | ganomaly.Config
    | hybrid.Config
    | mahalanobis.Config
    | memory_autoencoder.Config
    | neighbours.Config
    | ocgan.Config
    | piad.Config
    | projection.Config
    | restoration.Config
    | self_supervised.Config
    | synthetic_anomalies.Config
    | tuned_nuclei.Config
    | vae.Config
    | vae_gan.Config
    | vq_vae.Config,
    Field(discriminator="kind"),
]


class DetectorFile(Protocol):
    """The names that the file of a detector has, beside `Config`."""

    def networks(self, config: Any, *, pretrained: bool) -> Networks:
        """The networks by name."""
        ...

    def borrowed_weights(self, config: Any) -> tuple[str, ...]:
        """Names of the pinned weights that it needs."""
        ...

    def Trainee(  # noqa: N802  # a class in the file
        self, config: Any, networks: Networks, *, average: trainee.Average
    ) -> trainee.Trainee:
        """The detector in training."""
        ...

    def detector(
        self, config: Any, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
        stages: Collection[Stage] = STAGES,
    ) -> Detector:  # fmt: skip
        """The three stages, of which only `stages` are made."""
        ...


def file_of(config: SingleConfig) -> DetectorFile:
    """The file of a detector."""
    match config:
        case adversarial_autoencoder.Config():
            return adversarial_autoencoder
        case alocc.Config():
            return alocc
        case anogan.Config():
            return anogan
        case autoencoder.Config():
            return autoencoder
        case context_vae.Config():
            return context_vae
        case dagmm.Config():
            return dagmm
        case deep_geo.Config():
            return deep_geo
        case deep_if.Config():
            return deep_if
        case deep_svdd.Config():
            return deep_svdd
        case diffusion.Config():
            return diffusion
        case dpa.Config():
            return dpa
        case dsebm.Config():
            return dsebm
        case enlarged_nuclei.Config():
            return enlarged_nuclei
        case fanogan.Config():
            return fanogan
        case ganomaly.Config():
            return ganomaly
        case hybrid.Config():
            return hybrid
        case mahalanobis.Config():
            return mahalanobis
        case memory_autoencoder.Config():
            return memory_autoencoder
        case neighbours.Config():
            return neighbours
        case ocgan.Config():
            return ocgan
        case piad.Config():
            return piad
        case projection.Config():
            return projection
        case restoration.Config():
            return restoration
        case self_supervised.Config():
            return self_supervised
        case synthetic_anomalies.Config():
            return synthetic_anomalies
        case tuned_nuclei.Config():
            return tuned_nuclei
        case vae.Config():
            return vae
        case vae_gan.Config():
            return vae_gan
        case vq_vae.Config():
            return vq_vae


def summary_of(config: BaseModel) -> str:
    """What a detector is: the first paragraph of the docstring of its file.

    >>> summary_of(dpa.Config(kind="dpa"))
    'Deep perceptual autoencoder. https://arxiv.org/abs/2006.13265 .'
    """
    return next(iter(_paragraphs(config)), "")


def assumption_of(config: BaseModel) -> str | None:
    """What a detector assumes: the paragraph of that docstring that says so; None where none does."""
    named = (re.match(r"What it assumes:\s*(.)(.*)", text) for text in _paragraphs(config))
    return next((match[1].upper() + match[2] for match in named if match), None)


def _paragraphs(config: BaseModel) -> list[str]:
    """Of the docstring, each in one line, without marks of emphasis."""
    text = inspect.cleandoc(sys.modules[type(config).__module__].__doc__ or "")
    return [" ".join(part.replace("**", "").split()) for part in text.split("\n\n")]
