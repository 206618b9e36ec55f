"""Stains: mixtures whose truth is known, torchstain as the oracle, and real tiles of two laboratories."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from uadray.config import parse_config
from uadray.errors import InputError
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles import stain
from uadray.tiles.stain import (
    Stain,
    StainConfig,
    StainError,
    augment,
    fit_macenko,
    fit_vahadane,
    median_stain,
    normalizer,
)
from uadray.tiles.tissue import tissue_mask

RUIFROK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
MACENKO = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
FITS = pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])
Fit = Callable[..., Stain]


def _unit(vector: object) -> tuple[float, float, float]:
    red, green, blue = np.asarray(vector, float) / np.linalg.norm(np.asarray(vector, float))
    return float(red), float(green), float(blue)


def _stain(
    vectors: object = RUIFROK, maxima: tuple[float, float] = (1.6, 1.1), background: float = 242.0, **fields: float
) -> Stain:
    first, second = vectors  # type: ignore[misc]
    return Stain(haematoxylin=_unit(first), eosin=_unit(second), maxima=maxima, background=(background,) * 3, **fields)


def _mixture(
    vectors: object = RUIFROK, *, side_px: int = 200, glass: float = 242.0, noise: float = 2.0, strength: float = 1.0
) -> np.ndarray:
    """Nuclei rich in haematoxylin (four of ten pixels), ground rich in eosin; each with some of the other."""
    rng, n = np.random.default_rng(1), side_px**2
    nucleus = rng.random(n) < 0.4
    h = np.where(nucleus, rng.normal(1.4, 0.3, n), rng.gamma(2, 0.08, n)).clip(0) * strength
    e = np.where(nucleus, rng.gamma(2, 0.1, n), rng.normal(0.8, 0.25, n)).clip(0) * strength
    density = np.stack([h, e], 1) @ np.array([_unit(v) for v in vectors])  # type: ignore[attr-defined]
    light = (glass + 1) * np.exp(-density) - 1 + rng.normal(0, noise, density.shape)
    return light.clip(0, 255).round().astype(np.uint8).reshape(side_px, side_px, 3)


def _framed(image: np.ndarray, glass: int, width_px: int = 60) -> np.ndarray:
    return cv2.copyMakeBorder(image, *[width_px] * 4, cv2.BORDER_CONSTANT, value=(glass,) * 3)


def _degrees(a: object, b: object) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(_unit(a), _unit(b)), -1, 1))))


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


@pytest.fixture(scope="module")
def mosaics(data_dir: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Thumbnails and masks of ten mosaics; even ones of one laboratory's stain, odd ones of the other's."""
    found = {}
    for name in [f"ncalib_{i:03d}" for i in range(10)]:
        with open_slide(data_dir / "mosaics" / "normal_calib" / f"{name}.tif", slide_id=name) as slide:
            image, mpp = thumbnail(slide)
        found[name] = (image, tissue_mask(image, mpp))
    return found


# --- fitting ---


@pytest.mark.parametrize(("fit", "degrees"), [(fit_macenko, 4.0), (fit_vahadane, 8.0)])
@pytest.mark.parametrize("vectors", [RUIFROK, MACENKO], ids=["ruifrok", "macenko"])
def test_known_stains_are_found(fit: Fit, degrees: float, vectors: tuple[object, object]) -> None:
    """No pixel is pure, so neither method can be exact; the L1 term draws Vahadane's colours together."""
    found = fit(_framed(_mixture(vectors), 242))
    assert _degrees(found.haematoxylin, vectors[0]) < degrees
    assert _degrees(found.eosin, vectors[1]) < degrees
    assert found.background == (242, 242, 242)


def test_maxima_are_percentiles_of_the_amounts() -> None:
    """Truth: 95 % of normal(1.4, 0.3) in four of ten pixels are below 1.75; so is eosin's, below 1.2."""
    found = fit_macenko(_framed(_mixture(MACENKO), 242))
    assert found.maxima == pytest.approx((1.75, 1.18), rel=0.1)
    assert found.percentile == 95


@FITS
def test_fits_are_deterministic(fit: Fit) -> None:
    image = _mixture()
    assert fit(image) == fit(image.copy())


@pytest.mark.parametrize("frame", [242, 255])
def test_glass_and_unscanned_white_around_change_nothing(frame: int) -> None:
    image = _framed(_mixture(), 242, width_px=20)
    assert fit_macenko(_framed(image, frame, width_px=150)) == fit_macenko(image)


def test_the_mask_says_where_to_look() -> None:
    """A third of the slide under green ink would be a stain of its own."""
    image, mask = _mixture(), np.ones((200, 200), bool)
    clean = fit_macenko(image[:, 70:])
    image[:, :70] = (40, 160, 70)
    mask[:, :70] = False
    assert fit_macenko(image, mask=mask) == clean
    assert _degrees(fit_macenko(image).haematoxylin, clean.haematoxylin) > 10


@FITS
@pytest.mark.parametrize("image", [np.full((300, 300, 3), 242, np.uint8), _framed(_mixture(side_px=30), 242)])
def test_too_little_stain_is_refused(fit: Fit, image: np.ndarray) -> None:
    with pytest.raises(StainError, match=r"\d+ stained pixels .* from 1000") as caught:
        fit(image)
    assert caught.value.reason == "little_stain"


@FITS
@pytest.mark.parametrize("vector", [RUIFROK[0], (1, 1, 1)], ids=["haematoxylin", "grey"])
@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_one_stain_alone_is_refused(fit: Fit, vector: object, noise: float) -> None:
    with pytest.raises(StainError, match="expected haematoxylin and eosin") as caught:
        fit(_framed(_mixture((vector, vector), noise=noise), 242))
    assert caught.value.reason == "one_stain"


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(StainError("one_stain", "why")))  # noqa: S301
    assert (error.reason, str(error)) == ("one_stain", "why")


def test_a_large_thumbnail_is_thinned() -> None:
    image = _mixture()
    large, small = fit_macenko(np.tile(image, (12, 12, 1))), fit_macenko(image)
    assert _degrees(large.eosin, small.eosin) < 1
    assert large.maxima == pytest.approx(small.maxima, rel=0.02)


@pytest.mark.parametrize(("glass", "assumed"), [(200, 200.0), (255, 255.0), (170, 239.0)])
def test_background_light(glass: int, assumed: float) -> None:
    """170 is too dark for glass: then 239 is assumed."""
    assert stain.background_light(_framed(_mixture(glass=glass), glass)) == (assumed,) * 3


def test_reference_is_the_median_of_slides() -> None:
    ordinary, odd = _stain(MACENKO, (1.5, 1.0)), _stain(RUIFROK, (9.0, 9.0))
    other = _stain(MACENKO, (1.7, 1.2))
    found = median_stain([ordinary, odd, other])
    assert found.haematoxylin == pytest.approx(_unit(MACENKO[0]), abs=1e-6)
    assert found.maxima == (1.7, 1.2)
    with pytest.raises(StainError, match="one slide or more"):
        median_stain([])


# --- the oracle ---


def _oracle(image: np.ndarray, mask: np.ndarray) -> NumpyMacenkoNormalizer:
    """Fitted to the stained pixels: its percentiles are of all pixels it is given."""
    pixels = image[mask]
    oracle = NumpyMacenkoNormalizer()
    oracle.fit(pixels[(pixels <= 240 * np.exp(-0.15) - 1).all(1)][:, None])
    return oracle


def _as_stain(oracle: NumpyMacenkoNormalizer) -> Stain:
    h, e = oracle.HERef.T
    return _stain((h, e), tuple(oracle.maxCRef), 239.0, percentile=99)


def test_fit_agrees_with_torchstain(
    mosaics: dict[str, tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 4 degrees and 2 %: torchstain centres the densities before it looks for the plane, the paper does not."""
    monkeypatch.setattr(stain, "background_light", lambda _: (239.0,) * 3)  # torchstain's Io = 240
    for image, mask in mosaics.values():
        found, oracle = fit_macenko(image, mask=mask, percentile=99), _as_stain(_oracle(image, mask))
        assert _degrees(found.haematoxylin, oracle.haematoxylin) < 4
        assert _degrees(found.eosin, oracle.eosin) < 4
        assert found.maxima == pytest.approx(oracle.maxima, rel=0.02)


def test_fit_is_torchstains_where_all_lies_in_one_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stain, "background_light", lambda _: (239.0,) * 3)
    image = _mixture(MACENKO, glass=239, noise=0)
    found, oracle = fit_macenko(image, percentile=99), _as_stain(_oracle(image, np.ones(image.shape[:2], bool)))
    np.testing.assert_allclose(found.matrix, oracle.matrix, atol=0.005)
    assert found.maxima == pytest.approx(oracle.maxima, rel=0.005)


def _pcam(data_dir: Path, count: int) -> list[np.ndarray]:
    with zipfile.ZipFile(data_dir / "pcam" / "valid.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        return [_decoded(archive.read(name)) for name in names[:: len(names) // count][:count]]


def _decoded(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_application_is_torchstains_to_one_level(data_dir: Path) -> None:
    """Same stains, nothing kept of the residual. Above 239 it has reached its white and ours goes on by one level."""
    reference = _stain(MACENKO, (1.9705, 1.0308), 239.0, percentile=99)
    compared = 0
    for tile in _pcam(data_dir, 12):
        fitted = NumpyMacenkoNormalizer()
        fitted.fit(tile)
        try:
            source = _as_stain(fitted)
        except ValidationError:
            continue  # a tile of one colour
        expected, _, _ = NumpyMacenkoNormalizer().normalize(tile, stains=False)
        assert _difference(normalizer(source, reference, residual=0)(tile), expected).max() <= 1
        compared += 1
    assert compared >= 9


# --- application ---


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0.05, 1)] * 3), min_size=2, max_size=2),
    st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
    st.floats(150, 255),
    st.integers(0, 2**32 - 1),
)
def test_an_image_normalised_to_its_own_stain_is_unchanged(
    vectors: list[object], maxima: tuple[float, float], background: float, seed: int
) -> None:
    """To one level, whatever the pixels: ink, noise, brighter than glass."""
    if _degrees(*vectors) < 7:
        return
    own = _stain(vectors, maxima, background)
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 30, 20, 3), np.uint8)
    assert _difference(normalizer(own, own)(pixels), pixels).max() <= 1


def test_one_mixture_becomes_the_other() -> None:
    """The same amounts under other stains, 30 % stronger, on darker glass: what is made of one is the other."""
    source, target = _mixture(RUIFROK, noise=0), _mixture(MACENKO, noise=0, strength=1.3, glass=225)
    a, b = _stain(RUIFROK, (1.0, 1.0), 242), _stain(MACENKO, (1.3, 1.3), 225)
    assert _difference(normalizer(a, b)(source), target).max() <= 3
    assert np.mean(_difference(normalizer(a, b)(source), target)) < 0.4


def test_glass_becomes_the_references_glass_and_white_stays_white() -> None:
    change = normalizer(_stain(RUIFROK, (2.0, 0.5), 236), _stain(MACENKO, (1.2, 1.1), 243))
    assert change(np.full((1, 2, 2, 3), 236, np.uint8)).tolist() == np.full((1, 2, 2, 3), 243).tolist()
    assert change(np.full((1, 2, 2, 3), 255, np.uint8)).min() >= 243


def test_ink_is_kept_or_painted_over() -> None:
    """Green ink absorbs red and blue alone; both stains absorb green."""
    ink = np.full((1, 1, 3), (40, 180, 70), np.uint8)
    a, b = _stain(MACENKO, (1.6, 1.1)), _stain(RUIFROK, (1.8, 1.0))
    red, green, blue = normalizer(a, b)(ink)[0, 0].astype(int)
    assert green > red + 50
    assert green > blue + 50
    red, green, blue = normalizer(a, b, residual=0)(ink)[0, 0].astype(int)
    assert green < max(red, blue) + 50


def test_extreme_colours_are_clipped_not_wrapped() -> None:
    """Stains 8 degrees apart and a tenfold scale give pure colours densities of hundreds; infinite light is 255."""
    a = _stain(((0.6, 0.7, 0.4), (0.5, 0.8, 0.35)), (0.3, 0.3))
    b = _stain(MACENKO, (3.0, 3.0))
    pixels = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [9, 200, 30]], np.uint8)
    density = -np.log((pixels + 1.0) / 243)
    amounts = np.linalg.lstsq(a.matrix, density.T, rcond=None)[0] * 10
    assert np.abs(b.matrix @ amounts).max() > 100
    expected = (243 * np.exp(-(b.matrix @ amounts).T) - 1).clip(0, 255)
    assert _difference(normalizer(a, b, residual=0)(pixels), expected.round()).max() <= 1


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 1, 3), (3, 5, 7, 3), (2, 300, 300, 3)])
def test_shapes_and_blocks(shape: tuple[int, ...]) -> None:
    """Pixel by pixel, whatever lies around it; also of what is not contiguous; the input is left alone."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    kept, change = images.copy(), normalizer(_stain(), _stain(MACENKO))
    out = change(images)
    assert (out.shape, out.dtype) == (shape, np.uint8)
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(change(images[..., ::-1, :]), out[..., ::-1, :])
    if images.size:
        np.testing.assert_array_equal(change(images.reshape(-1, 3)[-1:]), out.reshape(-1, 3)[-1:])


def test_normalizers_are_small_and_cross_processes() -> None:
    change = normalizer(_stain(), _stain(MACENKO))
    data = pickle.dumps(change)
    assert len(data) < 10_000
    image = _mixture(side_px=16)
    np.testing.assert_array_equal(pickle.loads(data)(image), change(image))  # noqa: S301


def test_memory_beside_the_result_is_bounded() -> None:
    import tracemalloc  # opencv's arrays are numpy's, and counted

    tiles = np.zeros((64, 256, 256, 3), np.uint8)
    change = normalizer(_stain(), _stain(MACENKO))
    tracemalloc.start()
    change(tiles)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - tiles.nbytes < 1e6


# --- what it is for ---


@pytest.mark.parametrize(("method", "slides"), [("macenko", 10), ("vahadane", 4)])
def test_two_laboratories_come_together(
    mosaics: dict[str, tuple[np.ndarray, np.ndarray]], method: str, slides: int
) -> None:
    """Mean colours of tissue differ by less than half as much, among slides and between the laboratories."""
    config = parse_config(StainConfig, {"method": method}, source="test")
    images = list(mosaics.values())[:slides]
    fits = [stain.fit(image, config, mask=mask) for image, mask in images]
    changes = [normalizer(found, median_stain(fits), residual=config.residual) for found in fits]
    before = np.array([image[mask].mean(0) for image, mask in images])
    after = np.array([change(image)[mask].mean(0) for change, (image, mask) in zip(changes, images, strict=True)])
    assert _spread(after) < 0.5 * _spread(before)
    assert _apart(after) < 0.5 * _apart(before)


def _apart(colours: np.ndarray) -> float:
    """Between the laboratories: even and odd mosaics."""
    return float(np.linalg.norm(colours[::2].mean(0) - colours[1::2].mean(0)))


def _spread(colours: np.ndarray) -> float:
    return float(np.linalg.norm(colours - colours.mean(0), axis=1).mean())


# --- configuration ---


def test_a_stain_survives_json() -> None:
    found = fit_macenko(_mixture())
    config = StainConfig(method="vahadane", reference=found)
    assert StainConfig.model_validate_json(config.model_dump_json()) == config
    assert StainConfig().reference is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eosin": (1.0, 1.0, 1.0)}, "length 1"),
        ({"eosin": _unit(RUIFROK[0])}, "6 degrees apart"),
        ({"maxima": (0.0, 1.0)}, "above 0"),
        ({"maxima": (float("nan"), 1.0)}, "above 0"),
        ({"background": (256.0, 240.0, 240.0)}, "background"),
        ({"percentile": 99}, "percentile must be that of the reference's maxima, 99"),
    ],
)
def test_an_impossible_reference_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_config(StainConfig, {"reference": _stain().model_dump() | change}, source="stain.yaml")


def test_maxima_of_different_percentiles_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="95th percentiles, the reference's 99th"):
        normalizer(_stain(), _stain(percentile=99))
    with pytest.raises(ValueError, match="different percentiles"):
        median_stain([_stain(), _stain(percentile=99)])


# --- augmentation ---


def _augmented(images: np.ndarray, seed: int = 0, alpha: float = 0.2, beta: float = 0.2) -> np.ndarray:
    return augment(images, np.random.default_rng(seed), sigma_alpha=alpha, sigma_beta=beta)


def test_without_sigma_nothing_changes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    assert _difference(_augmented(images, alpha=0, beta=0), images).max() <= 1


def test_each_image_is_drawn_by_itself_and_by_the_seed() -> None:
    images = np.stack([_mixture(side_px=32)] * 3)
    out = _augmented(images)
    assert (out.shape, out.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(out, _augmented(images))
    assert min(_difference(out[0], out[1]).mean(), _difference(out[1], out[2]).mean()) > 3
    assert _difference(out, _augmented(images, seed=1)).mean() > 3
    assert _augmented(images[:0]).shape == (0, 32, 32, 3)


def test_white_stays_white_and_glass_within_six_levels() -> None:
    """Glass of 235 is scaled as if it were a little stain, and not shifted."""
    white, glass = np.full((200, 4, 4, 3), 255, np.uint8), np.full((200, 4, 4, 3), 235, np.uint8)
    assert _augmented(white).min() == 255
    assert _difference(_augmented(glass), glass).max() <= 6


def test_factors_and_shifts_are_tellez() -> None:
    """Amounts of the three stains come out as alpha x + beta, with both inside their ranges and spread over them."""
    colours = stain.HED / np.linalg.norm(stain.HED, axis=1, keepdims=True)
    amounts = np.array([[0.4, 0.3, 0.2], [0.7, 0.3, 0.2], [0.4, 0.6, 0.2], [0.4, 0.3, 0.4]])
    image = (256 * np.exp(-amounts @ colours) - 1).round().astype(np.uint8)[None]  # [1, 4, 3]
    out = _augmented(np.stack([image] * 300)).reshape(300, 4, 3)

    def unmixed(pixels: np.ndarray) -> np.ndarray:
        return -np.log((pixels + 1.0) / 256) @ np.linalg.inv(colours)

    before, after = unmixed(image[0]), unmixed(out)
    steps = [(after[:, 1 + i, i] - after[:, 0, i]) / (before[1 + i, i] - before[0, i]) for i in range(3)]
    alphas = np.stack(steps, 1)
    betas = after[:, 0] - alphas * before[0]
    for drawn, centre in ((alphas, 1), (betas, 0)):
        assert np.abs(drawn - centre).max() < 0.2 + 0.08  # 8-bit pixels
        assert np.abs(drawn.mean(0) - centre).max() < 0.03
        assert np.abs(drawn.std(0) - 0.2 / np.sqrt(3)).max() < 0.03
