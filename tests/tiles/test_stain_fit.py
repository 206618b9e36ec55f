"""Fitting of stains: mixtures whose truth is known, torchstain as the oracle, and references that are refused."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from tiles.stain_mixtures import MACENKO, RUIFROK, as_stain, degrees_between, framed, mixture, stain, unit
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from uadray.config import parse_config
from uadray.errors import InputError
from uadray.tiles import stain_fit
from uadray.tiles.stain import Stain, StainConfig, StainError
from uadray.tiles.stain_fit import fit_macenko, fit_vahadane, median_stain

FITS = pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])


Fit = Callable[..., Stain]


@pytest.mark.parametrize(("fit", "degrees"), [(fit_macenko, 4.0), (fit_vahadane, 8.0)])
@pytest.mark.parametrize("vectors", [RUIFROK, MACENKO], ids=["ruifrok", "macenko"])
def test_known_stains_are_found(fit: Fit, degrees: float, vectors: tuple[object, object]) -> None:
    """No pixel is pure, so neither method can be exact; the L1 term draws Vahadane's colours together."""
    found = fit(framed(mixture(vectors), 242))
    assert degrees_between(found.haematoxylin, vectors[0]) < degrees
    assert degrees_between(found.eosin, vectors[1]) < degrees
    assert found.background == (242, 242, 242)


def test_maxima_are_percentiles_of_the_amounts() -> None:
    """Truth: 95 % of normal(1.4, 0.3) in four of ten pixels are below 1.75; so is eosin's, below 1.2."""
    found = fit_macenko(framed(mixture(MACENKO), 242))
    assert found.maxima == pytest.approx((1.75, 1.18), rel=0.1)
    assert found.percentile == 95


@FITS
def test_fits_are_deterministic(fit: Fit) -> None:
    image = mixture()
    assert fit(image) == fit(image.copy())


@pytest.mark.parametrize("frame", [242, 255])
def test_glass_and_unscanned_white_around_change_nothing(frame: int) -> None:
    image = framed(mixture(), 242, width_px=20)
    assert fit_macenko(framed(image, frame, width_px=150)) == fit_macenko(image)


def test_the_mask_says_where_to_look() -> None:
    """A third of the slide under green ink would be a stain of its own."""
    image, mask = mixture(), np.ones((200, 200), bool)
    clean = fit_macenko(image[:, 70:])
    image[:, :70] = (40, 160, 70)
    mask[:, :70] = False
    assert fit_macenko(image, mask=mask) == clean
    assert degrees_between(fit_macenko(image).haematoxylin, clean.haematoxylin) > 10


@FITS
@pytest.mark.parametrize("image", [np.full((300, 300, 3), 242, np.uint8), framed(mixture(side_px=30), 242)])
def test_too_little_stain_is_refused(fit: Fit, image: np.ndarray) -> None:
    with pytest.raises(StainError, match=r"\d+ stained pixels .* from 1000") as caught:
        fit(image)
    assert caught.value.reason == "little_stain"


@FITS
@pytest.mark.parametrize("vector", [RUIFROK[0], (1, 1, 1)], ids=["haematoxylin", "grey"])
@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_one_stain_alone_is_refused(fit: Fit, vector: object, noise: float) -> None:
    with pytest.raises(StainError, match="expected haematoxylin and eosin") as caught:
        fit(framed(mixture((vector, vector), noise=noise), 242))
    assert caught.value.reason == "one_stain"


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(StainError("one_stain", "why")))  # noqa: S301
    assert (error.reason, str(error)) == ("one_stain", "why")


def test_a_large_thumbnail_is_thinned() -> None:
    image = mixture()
    large, small = fit_macenko(np.tile(image, (12, 12, 1))), fit_macenko(image)
    assert degrees_between(large.eosin, small.eosin) < 1
    assert large.maxima == pytest.approx(small.maxima, rel=0.02)


@pytest.mark.parametrize(("glass", "assumed"), [(200, 200.0), (255, 255.0), (170, 239.0)])
def test_background_light(glass: int, assumed: float) -> None:
    """170 is too dark for glass: then 239 is assumed."""
    assert stain_fit.background_light(framed(mixture(glass=glass), glass)) == (assumed,) * 3


def test_reference_is_the_median_of_slides() -> None:
    ordinary, odd = stain(MACENKO, (1.5, 1.0)), stain(RUIFROK, (9.0, 9.0))
    other = stain(MACENKO, (1.7, 1.2))
    found = median_stain([ordinary, odd, other])
    assert found.haematoxylin == pytest.approx(unit(MACENKO[0]), abs=1e-6)
    assert found.maxima == (1.7, 1.2)
    with pytest.raises(StainError, match="one slide or more"):
        median_stain([])


def _oracle(image: np.ndarray, mask: np.ndarray) -> NumpyMacenkoNormalizer:
    """Fitted to the stained pixels: its percentiles are of all pixels it is given."""
    pixels = image[mask]
    oracle = NumpyMacenkoNormalizer()
    oracle.fit(pixels[(pixels <= 240 * np.exp(-0.15) - 1).all(1)][:, None])
    return oracle


def test_fit_agrees_with_torchstain(
    mosaics: dict[str, tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 4 degrees and 2 %: torchstain centres the densities before it looks for the plane, the paper does not."""
    monkeypatch.setattr(stain_fit, "background_light", lambda _: (239.0,) * 3)  # torchstain's Io = 240
    for image, mask in mosaics.values():
        found, oracle = fit_macenko(image, mask=mask, percentile=99), as_stain(_oracle(image, mask))
        assert degrees_between(found.haematoxylin, oracle.haematoxylin) < 4
        assert degrees_between(found.eosin, oracle.eosin) < 4
        assert found.maxima == pytest.approx(oracle.maxima, rel=0.02)


def test_fit_is_torchstains_where_all_lies_in_one_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stain_fit, "background_light", lambda _: (239.0,) * 3)
    image = mixture(MACENKO, glass=239, noise=0)
    found, oracle = fit_macenko(image, percentile=99), as_stain(_oracle(image, np.ones(image.shape[:2], bool)))
    np.testing.assert_allclose(found.matrix, oracle.matrix, atol=0.005)
    assert found.maxima == pytest.approx(oracle.maxima, rel=0.005)


def test_a_stain_survives_json() -> None:
    found = fit_macenko(mixture())
    config = StainConfig(method="vahadane", reference=found)
    assert StainConfig.model_validate_json(config.model_dump_json()) == config
    assert StainConfig().reference is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eosin": (1.0, 1.0, 1.0)}, "length 1"),
        ({"eosin": unit(RUIFROK[0])}, "6 degrees apart"),
        ({"maxima": (0.0, 1.0)}, "above 0"),
        ({"maxima": (float("nan"), 1.0)}, "above 0"),
        ({"background": (256.0, 240.0, 240.0)}, "background"),
        ({"percentile": 99}, "percentile must be that of the reference's maxima, 99"),
    ],
)
def test_an_impossible_reference_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_config(StainConfig, {"reference": stain().model_dump() | change}, source="stain.yaml")
