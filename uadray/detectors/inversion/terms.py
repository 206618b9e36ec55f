"""How far a tile is from its closest normal picture: terms, each by itself or summed, normalised on normal tiles.

Terms of a tile x and the generator's closest picture x_hat, higher where they differ more:

    pixel_l1        mean |x - x_hat|                        AnoGAN's R, https://arxiv.org/abs/1703.05921, eq. 3
    pixel_l2        mean (x - x_hat)^2                      f-AnoGAN's A_R, https://doi.org/10.1016/j.media.2019.01.010
    critic          mean |f(x) - f(x_hat)|                  AnoGAN's D, eq. 5: f is the discriminator's last map
    critic_l2       mean (f(x) - f(x_hat))^2                f-AnoGAN's A_D
    word            1 - D(x); of a critic -C(x)             AnoGAN's P_D; knows nothing of x_hat
    reference       -log D(x_hat); of a critic -C(x_hat)    AnoGAN's GAN_R; knows nothing of x but through x_hat
    lpips           Zhang et al. 2018, https://arxiv.org/abs/1801.03924, on AlexNet
    perceptual_l1   Tuluptceva et al. 2020, https://arxiv.org/abs/2006.13265, eq. 2, on EfficientNet-Lite0
    perceptual_l2   the same with squared differences
    edges           of Canny's edge maps, see `uadray.detectors.inversion.edges`

Different: sums over pixels, channels and places are means, so that a term does not depend on the side. A term's value
is turned into deviations from the mean of normal tiles, of all or of those with the tile's contrast (`by_contrast`,
see `uadray.detectors.inversion.normals`); a sum of terms is one of these.

Where a term says what differs, its map has the term's value by place; `word` and `reference` speak of a tile as a whole
and have the same value at every place. The map of a sum is the same weighted sum of normalised maps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from uadray import config as configuration
from uadray.detectors.features.perceptual import PerceptualFeatures
from uadray.detectors.inversion.compared import Compared, Judge, Measures, TermKind
from uadray.detectors.inversion.normals import Normals, contrast
from uadray.detectors.latents import Latent
from uadray.detectors.scores import enlarged, picture_of
from uadray.detectors.trainee import Average
from uadray.networks.backbones import build_backbone
from uadray.networks.lpips import Lpips, lpips_distance
from uadray.networks.outline import Networks

LPIPS_SIDE = 64
"""Least side of what AlexNet compares: of 32 px its last three layers have one cell, of 16 px none."""

BACKBONE, LAYERS = "efficientnet_lite0", ("block4", "block7")
"""What `perceptual_l1` and `perceptual_l2` compare: what the perceptual autoencoder has by default."""

CRITIC_KINDS: frozenset[TermKind] = frozenset({"critic", "critic_l2", "word", "reference"})
PERCEPTUAL_KINDS: frozenset[TermKind] = frozenset({"perceptual_l1", "perceptual_l2"})


class TermConfig(configuration.Config):
    """One term of a score.

    Attributes:
        kind: which distance, see above.
        weight: of the term's deviations in the sum.
        by_contrast: normalise by normal tiles of the tile's contrast, in place of all normal tiles.
        side_px: of `lpips`: smaller tiles are enlarged to it first; None: 64.
    """

    kind: TermKind
    weight: float = Field(default=1.0, gt=0, le=1e6)
    by_contrast: bool = False
    side_px: int | None = Field(default=None, ge=32, le=512)

    @model_validator(mode="after")
    def _fits(self) -> "TermConfig":
        if self.side_px is not None and self.kind != "lpips":
            raise ValueError(f"side_px is for lpips; {self.kind} compares tiles as they are")
        return self


def term_networks(terms: Sequence[TermConfig], *, input_px: int, pretrained: bool) -> Networks:
    """What terms need beside the generator's networks: `lpips` and `perceptual` where one asks for them, and `normals`.

    Args:
        terms: of the score.
        input_px: side of the tiles.
        pretrained: with the published weights; without, they are NaN, for a bundle to fill.

    Raises:
        InputError: pinned weights do not fit.
        WorkError: pinned weights cannot be had.
    """
    kinds = {term.kind for term in terms}
    named: Networks = {}
    if "lpips" in kinds:
        named["lpips"] = lpips_distance("alexnet", pretrained=pretrained)
    if kinds & PERCEPTUAL_KINDS:
        backbone = build_backbone(BACKBONE, LAYERS, pretrained=pretrained)
        named["perceptual"] = PerceptualFeatures(backbone, list(backbone.channels))
    return named | {"normals": Normals(len(terms))}


def term_weights(terms: Sequence[TermConfig]) -> tuple[str, ...]:
    """Names of the pinned weights that terms need."""
    kinds = {term.kind for term in terms}
    lpips = ("alexnet", "lpips_alexnet") if "lpips" in kinds else ()
    return lpips + ((BACKBONE,) if kinds & PERCEPTUAL_KINDS else ())


def prepare_terms(networks: Mapping[str, nn.Module], x: Float[Tensor, "n 3 h w"]) -> None:
    """Normalise the features of perceptual terms on normal tiles x; for a trainee's `prepare`."""
    if "perceptual" in networks:
        cast(PerceptualFeatures, networks["perceptual"]).fit(x)


class TermsScore:
    """The weighted sum of terms, each in deviations from normal tiles.

    A tile's score depends on no other tile. Values are float32; under autocast the networks alone are lowered.

    Attributes:
        terms: of the sum.

    Args:
        terms: of the sum.
        networks: those of `term_networks`.
        critic: what tells the generator's pictures from real ones; None where no term asks it.

    Raises:
        ValueError: there is no term, or one needs a critic and there is none.
    """

    def __init__(self, terms: Sequence[TermConfig], networks: Mapping[str, nn.Module], critic: Judge | None) -> None:
        if not terms:
            raise ValueError("a score needs at least one term")
        self.terms = tuple(terms)
        kinds = {term.kind for term in terms}
        if critic is None and kinds & CRITIC_KINDS:
            raise ValueError(f"terms {sorted(kinds & CRITIC_KINDS)} need a critic")
        self.normals = cast(Normals, networks["normals"])
        lpips = cast(Lpips, networks["lpips"]) if "lpips" in kinds else None
        self.measures = Measures(critic, lpips, networks["perceptual"] if kinds & PERCEPTUAL_KINDS else None)
        self._is_checked = False

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map has the terms' normalised maps, enlarged to the finest of them, with the terms' weights.

        Raises:
            WorkError: the normalisation was not fitted.
        """
        if not self._is_checked:
            self.normals.check()
            self._is_checked = True
        values, maps = self.parts(x, picture_of(x_hat))
        contrasts = contrast(x)
        score, weighed = torch.zeros_like(contrasts), list[Tensor]()
        for number, (term, residual) in enumerate(zip(self.terms, maps, strict=True)):
            mean, deviation = self.normals.mean[number], self.normals.deviation[number]
            if term.by_contrast:
                mean, deviation = self.normals.of(contrasts, number)
            score = score + term.weight * (values[:, number] - mean) / deviation
            centre, width = (m.expand(len(x)).view(-1, 1, 1, 1) for m in (mean, deviation))
            weighed.append(term.weight * (residual[:, None] - centre) / width)
        return score, torch.stack(enlarged(weighed)).sum(0).squeeze(1)

    def parts(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n t"], list[Float[Tensor, "n _ _"]]]:
        """Value and map of each term as they are, in the order of `terms`; float32."""
        compared = Compared(x, x_hat, self.measures)
        pairs = [compared.term(term.kind, term.side_px or LPIPS_SIDE) for term in self.terms]
        return torch.stack([value for value, _ in pairs], 1), [residual for _, residual in pairs]


class NormalsFit:
    """The last phase of a training, `normals`: measures of normal tiles and their closest pictures are counted.

    The networks have to be in the mode in which they score. A few hundred tiles are enough.

    Args:
        terms: of the score.
        networks: those of `term_networks`.
        critic: as of `TermsScore`.
    """

    def __init__(self, terms: Sequence[TermConfig], networks: Mapping[str, nn.Module], critic: Judge | None) -> None:
        self.score = TermsScore(terms, networks, critic)

    @torch.no_grad()
    def see(
        self, x: Float[Tensor, "n 3 h w"], closest: Callable[[Tensor], Tensor], average: Average | None = None
    ) -> dict[str, float]:
        """Count normal tiles x and their closest pictures, in float32 as they are scored; the means of terms by name.

        With `average` the sums are those of all workers from this step on, so that a checkpoint of one of them has them
        all; without it `finish` makes them so.
        """
        with torch.autocast(x.device.type, enabled=False):
            values, _ = self.score.parts(x.float(), closest(x.float()).float())
            self.score.normals.see(contrast(x), values, average)
        names = (f"{number}_{term.kind}" for number, term in enumerate(self.score.terms))
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def finish(self, average: Average) -> None:
        """Tell means and deviations from what all workers counted.

        Raises:
            UnsuitableTilesError: too few tiles were seen, or a term is the same of all.
        """
        normals = self.score.normals
        average([normals.count, normals.first, normals.second])
        normals.fit()
