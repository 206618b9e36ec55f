"""Normalisation: torchstain as the oracle, properties of the map, and real tiles of two laboratories."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiles.stain_mixtures import MACENKO, RUIFROK, as_stain, degrees_between, difference, mixture, stain
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from uadray.config import parse_config
from uadray.tiles.stain import StainConfig
from uadray.tiles.stain_fit import fit_stain, median_stain
from uadray.tiles.stain_normalize import normalizer


def _pcam(data_dir: Path, count: int) -> list[np.ndarray]:
    with zipfile.ZipFile(data_dir / "pcam" / "valid.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        return [_decoded(archive.read(name)) for name in names[:: len(names) // count][:count]]


def _decoded(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_application_is_torchstains_to_one_level(data_dir: Path) -> None:
    """Same stains, nothing kept of the residual. Above 239 it has reached its white and ours goes on by one level."""
    reference = stain(MACENKO, (1.9705, 1.0308), 239.0, percentile=99)
    compared = 0
    for tile in _pcam(data_dir, 12):
        fitted = NumpyMacenkoNormalizer()
        fitted.fit(tile)
        try:
            source = as_stain(fitted)
        except ValidationError:
            continue  # a tile of one colour
        expected, _, _ = NumpyMacenkoNormalizer().normalize(tile, stains=False)
        assert difference(normalizer(source, reference, residual=0)(tile), expected).max() <= 1
        compared += 1
    assert compared >= 9


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
    if degrees_between(*vectors) < 7:
        return
    own = stain(vectors, maxima, background)
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 30, 20, 3), np.uint8)
    assert difference(normalizer(own, own)(pixels), pixels).max() <= 1


def test_one_mixture_becomes_the_other() -> None:
    """The same amounts under other stains, 30 % stronger, on darker glass: what is made of one is the other."""
    source, target = mixture(RUIFROK, noise=0), mixture(MACENKO, noise=0, strength=1.3, glass=225)
    a, b = stain(RUIFROK, (1.0, 1.0), 242), stain(MACENKO, (1.3, 1.3), 225)
    assert difference(normalizer(a, b)(source), target).max() <= 3
    assert np.mean(difference(normalizer(a, b)(source), target)) < 0.4


def test_glass_becomes_the_references_glass_and_white_stays_white() -> None:
    change = normalizer(stain(RUIFROK, (2.0, 0.5), 236), stain(MACENKO, (1.2, 1.1), 243))
    assert change(np.full((1, 2, 2, 3), 236, np.uint8)).tolist() == np.full((1, 2, 2, 3), 243).tolist()
    assert change(np.full((1, 2, 2, 3), 255, np.uint8)).min() >= 243


def test_ink_is_kept_or_painted_over() -> None:
    """Green ink absorbs red and blue alone; both stains absorb green."""
    ink = np.full((1, 1, 3), (40, 180, 70), np.uint8)
    a, b = stain(MACENKO, (1.6, 1.1)), stain(RUIFROK, (1.8, 1.0))
    red, green, blue = normalizer(a, b)(ink)[0, 0].astype(int)
    assert green > red + 50
    assert green > blue + 50
    red, green, blue = normalizer(a, b, residual=0)(ink)[0, 0].astype(int)
    assert green < max(red, blue) + 50


def test_extreme_colours_are_clipped_not_wrapped() -> None:
    """Stains 8 degrees apart and a tenfold scale give pure colours densities of hundreds; infinite light is 255."""
    a = stain(((0.6, 0.7, 0.4), (0.5, 0.8, 0.35)), (0.3, 0.3))
    b = stain(MACENKO, (3.0, 3.0))
    pixels = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [9, 200, 30]], np.uint8)
    density = -np.log((pixels + 1.0) / 243)
    amounts = np.linalg.lstsq(a.matrix, density.T, rcond=None)[0] * 10
    assert np.abs(b.matrix @ amounts).max() > 100
    expected = (243 * np.exp(-(b.matrix @ amounts).T) - 1).clip(0, 255)
    assert difference(normalizer(a, b, residual=0)(pixels), expected.round()).max() <= 1


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 1, 3), (3, 5, 7, 3), (2, 300, 300, 3)])
def test_shapes_and_blocks(shape: tuple[int, ...]) -> None:
    """Pixel by pixel, whatever lies around it; also of what is not contiguous; the input is left alone."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    kept, change = images.copy(), normalizer(stain(), stain(MACENKO))
    out = change(images)
    assert (out.shape, out.dtype) == (shape, np.uint8)
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(change(images[..., ::-1, :]), out[..., ::-1, :])
    if images.size:
        np.testing.assert_array_equal(change(images.reshape(-1, 3)[-1:]), out.reshape(-1, 3)[-1:])


def test_normalizers_are_small_and_cross_processes() -> None:
    change = normalizer(stain(), stain(MACENKO))
    data = pickle.dumps(change)
    assert len(data) < 10_000
    image = mixture(side_px=16)
    np.testing.assert_array_equal(pickle.loads(data)(image), change(image))  # noqa: S301


def test_memory_beside_the_result_is_bounded() -> None:
    import tracemalloc  # opencv's arrays are numpy's, and counted

    tiles = np.zeros((64, 256, 256, 3), np.uint8)
    change = normalizer(stain(), stain(MACENKO))
    tracemalloc.start()
    change(tiles)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - tiles.nbytes < 1e6


@pytest.mark.parametrize(("method", "slides"), [("macenko", 10), ("vahadane", 4)])
def test_two_laboratories_come_together(
    mosaics: dict[str, tuple[np.ndarray, np.ndarray]], method: str, slides: int
) -> None:
    """Mean colours of tissue differ by less than half as much, among slides and between the laboratories."""
    config = parse_config(StainConfig, {"method": method}, source="test")
    images = list(mosaics.values())[:slides]
    fits = [fit_stain(image, config, mask=mask) for image, mask in images]
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


def test_maxima_of_different_percentiles_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="95th percentiles, the reference's 99th"):
        normalizer(stain(), stain(percentile=99))
    with pytest.raises(ValueError, match="different percentiles"):
        median_stain([stain(), stain(percentile=99)])
