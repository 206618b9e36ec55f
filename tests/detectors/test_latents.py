"""Latents that are kept of a search: of which tiles, and that pictures and maps are made of them."""

import numpy as np
import torch
from toy_search import CountedSearch, searching

from uadray.detectors.latents import KEPT, KeptLatents, as_batch, row_of

TILES = np.random.default_rng(0).integers(0, 256, (70, 4, 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)


def test_the_latents_of_the_highest_scores_of_each_batch_are_kept() -> None:
    score = torch.randperm(70, generator=torch.Generator().manual_seed(0)).float()
    z = (torch.arange(70.0)[:, None], (torch.arange(70),))
    kept = KeptLatents()
    for start in (0, 64):
        rows = slice(start, start + 64)
        kept.add(score[rows], (z[0][rows], (z[1][0][rows],)))
    best = {int(row) for row in score[:64].topk(KEPT).indices} | set(range(64, 70))
    found = kept.of(range(70))
    assert {row for row, latent in enumerate(found) if latent is not None} == best
    for row in best:
        colour, (number,) = found[row]  # type: ignore[misc]
        assert (colour.tolist(), number.tolist()) == ([[row]], [row])
        assert colour.untyped_storage().nbytes() == 4, "the batch it was in is not kept with it"


def test_latents_of_tiles_make_a_batch() -> None:
    z = (torch.arange(6.0).view(3, 2), (torch.arange(3),))
    found = as_batch([row_of(z, 2), row_of(z, 0)])
    assert torch.equal(found[0], z[0][[2, 0]])
    assert torch.equal(found[1][0], z[1][0][[2, 0]])


def test_what_was_searched_for_is_not_searched_for_again_for_pictures() -> None:
    search = CountedSearch()
    detector = searching(search)
    scored = detector(TILES)
    assert (search.passes, search.tiles) == (2, 70)
    best = np.argsort(-scored.score)[:KEPT].tolist()
    seen, x_hat = scored.pictures(best)
    maps = scored.maps(best)
    assert search.tiles == 70
    assert x_hat is not None
    _, every = detector.pictures(TILES)
    np.testing.assert_array_equal(seen, TILES[best])
    np.testing.assert_array_equal(x_hat, every[best])  # type: ignore[index]
    np.testing.assert_array_equal(maps, detector.maps(TILES)[best])
    assert [len(part) for part in scored.pictures([])] == [0, 0]  # type: ignore[arg-type]


def test_what_was_not_kept_is_searched_for_alone() -> None:
    search = CountedSearch()
    detector = searching(search)
    scored = detector(TILES)
    worst, best = int(np.argmin(scored.score[:64])), int(np.argmax(scored.score[:64]))
    before = search.tiles
    found = scored.maps([best, worst, best])
    assert search.tiles == before + 1
    np.testing.assert_array_equal(found, detector.maps(TILES)[[best, worst, best]])


def test_batches_of_a_search_are_smaller_beyond_128_px() -> None:
    assert searching(CountedSearch()).batch_tiles == 64
    assert searching(CountedSearch(), batch_tiles=5).batch_tiles == 5
