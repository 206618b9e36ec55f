"""Several bundles as one detector: its score is that of its members apart, and its bundle holds all that it needs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks_watch import moved, state_of
from pydantic import TypeAdapter, ValidationError

from uadray.config import parse_config
from uadray.detectors import combined, dpa, enlarged_nuclei, fanogan
from uadray.detectors.building import DetectorConfig, build_detector, build_networks, build_trainee, outline_of
from uadray.detectors.bundle import Bundle, load_detector, read_bundle, write_bundle
from uadray.detectors.description import described_bundle
from uadray.detectors.detector import Detector
from uadray.detectors.members import read_members
from uadray.detectors.p_values import NormalScores, Rule
from uadray.detectors.pixels import Pixels, to_input
from uadray.detectors.precision import LoweredScore
from uadray.detectors.side_by_side import CombinedScore, MembersMap, ShownPicture, with_map
from uadray.errors import InputError
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

TILES = TileSpec(mpp=1.0, tile_px=40)
GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
DPA = dpa.Config(kind="dpa", input_px=32, width=4, halvings=2, layers=("block0", "block1"))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A GAN that looks at 16 px and an autoencoder that looks at 32 px."""
    folder = tmp_path_factory.mktemp("members")
    torch.manual_seed(1)
    for config in (GAN, DPA):
        write_bundle(str(folder / config.kind), build_networks(config), name=config.kind, detector=config, tiles=TILES)
    return str(folder / "fanogan"), str(folder / "dpa")


def _tiles(n: int, seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    colours = rng.integers(60, 230, (n, 1, 1, 3))
    return np.clip(colours + rng.normal(0, 25, (n, 40, 40, 3)), 0, 255).astype(np.uint8)


NORMALS, ASKED = _tiles(300, 0), _tiles(70, 1)


def _config(members: tuple[str, ...], **fields: Any) -> combined.Config:
    config = combined.Config(kind="combined", bundles=members, **fields)
    return combined.with_members(config, [member.detector for member in read_members(members)])


@pytest.fixture(scope="module")
def fitted(members: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Fits a combination to `NORMALS` and writes its bundle."""

    def fit(rule: Rule = "fisher", order: tuple[str, ...] = members, **fields: Any) -> str:
        config = _config(order, rule=rule, **fields)
        networks = build_networks(config)
        trainee = build_trainee(config, networks)
        x = to_input(NORMALS, config.input_px)
        trainee.prepare(x)
        for batch in x.split(100):
            trainee.step(batch, 0.0)
        uri = str(tmp_path_factory.mktemp("bundle"))
        write_bundle(uri, networks, name="c", detector=config, tiles=TILES)
        return uri

    return fit


def _p_by_hand(normal: np.ndarray, score: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Log p: see `NormalScores`, written anew."""
    low, high = edges[0], edges[-1]
    above = np.array([((normal >= edge).sum() + 0.5) / (len(normal) + 1) for edge in edges])
    inside = np.log(np.interp(score, edges, above))
    upper = np.log(above[-1]) - (score - high) / (normal[normal >= high] - high).mean()
    lower = np.log1p(-(1 - above[0]) * np.exp(-np.maximum(low - score, 0) / (low - normal[normal < low]).mean()))
    return np.where(score >= high, upper, np.where(score < low, lower, inside))


@pytest.mark.parametrize("rule", ["fisher", "minimum"])
def test_the_score_is_that_of_the_members_apart(
    members: tuple[str, str], fitted: Callable[..., str], rule: Rule
) -> None:
    weights = (2.0, 1.0)
    uri = fitted(rule, weights=weights)
    log_p = []
    for member in members:
        normal, score = (load_detector(member)(tiles).score for tiles in (NORMALS, ASKED))
        edges = np.quantile(normal, np.linspace(0.05, 0.95, 201))
        log_p.append(_p_by_hand(normal, score, edges))
    share = np.array(weights) / 1.5
    expected = {
        "fisher": -(share[:, None] * np.array(log_p)).sum(0),
        "minimum": -np.min(np.array(log_p) - np.log(share)[:, None], axis=0) - np.log(2),
    }
    np.testing.assert_allclose(load_detector(uri)(ASKED).score, expected[rule], atol=1e-6)


def test_the_picture_is_of_the_first_that_makes_one_and_the_map_of_the_widest(
    members: tuple[str, str], fitted: Callable[..., str]
) -> None:
    uri = fitted()
    got, alone = load_detector(uri)(ASKED), load_detector(members[0])(ASKED)
    x, x_hat = got.pictures([0, 69])
    assert x.shape == (2, 32, 32, 3)
    assert x_hat is not None
    expected = alone.pictures([0, 69])[1]
    assert expected is not None
    np.testing.assert_array_equal(x_hat[:, 8:-8, 8:-8], expected)
    assert (x_hat[:, :8] == 255).all()
    np.testing.assert_allclose(got.maps([0, 69]), load_detector(members[1])(ASKED).maps([0, 69]), atol=1e-6)


def test_the_order_of_members_changes_no_score(members: tuple[str, str], fitted: Callable[..., str]) -> None:
    """Other pictures travel, and others are made where they are scored."""
    scores = [load_detector(fitted(order=order))(ASKED).score for order in (members, members[::-1])]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_a_bundle_is_self_contained_and_has_one_id(members: tuple[str, str], fitted: Callable[..., str]) -> None:
    uri = fitted()
    text = (Path(uri) / "bundle.json").read_text()
    assert not any(str(Path(member).parent) in text for member in members)
    bundle = read_bundle(uri)
    assert isinstance(bundle.detector, combined.Config)
    assert bundle.detector.bundles is None
    assert bundle.detector.members == (GAN, DPA)
    assert bundle.id == described_bundle(uri).id
    assert parse_config(Bundle, described_bundle(uri).model_dump(), source="b").id == bundle.id


def test_members_stand_still(members: tuple[str, str]) -> None:
    """Running statistics too, where an epoch has put all networks into training mode."""
    config = _config(members)
    networks = build_networks(config)
    before, trainee = state_of(networks), build_trainee(config, networks)
    x = to_input(NORMALS, 32)
    trainee.prepare(x)
    for network in networks.values():
        network.train()
    trainee.step(x, 0.5)
    assert moved(networks, before) == {"normal"}
    assert trainee.reconstruct(x[:2]) is not None


def test_outlines_take_no_memory(members: tuple[str, str]) -> None:
    networks = outline_of(_config(members))
    assert all(t.is_meta for network in networks.values() for t in network.state_dict().values())
    assert set(networks) > {"member0_generator", "member1_encoder", "normal"}


def test_lowered_scores_stay_near(fitted: Callable[..., str]) -> None:
    """Pictures that the score makes itself are made in float32 all the same."""
    detector = load_detector(fitted())
    full = detector(ASKED).score
    detector.score = LoweredScore(detector.score)
    assert np.abs(detector(ASKED).score - full).mean() < 0.05 * full.std()


def _broken(uri: str, change: Callable[[dict[str, Any]], Any], to: Path) -> str:
    values = json.loads((Path(uri) / "bundle.json").read_text())
    change(values["detector"])
    (to / "bundle.json").write_text(json.dumps(values))
    return str(to)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(bundles=["s3://a/b", "s3://a/c"]), r"names bundles elsewhere, detector\.bundles"),
        (
            lambda d: d["members"][0].update(generator="s3://g"),
            r"a generator elsewhere, detector\.members\.0\.generator",
        ),
        (lambda d: d["members"].pop(), "combined takes 2 to 8 bundles"),
        (lambda d: d.update(members=d["members"] * 5), "at most 8 items"),
        (
            lambda d: d["members"][0].update(kind="combined"),
            r"detector\.members\.0: Input tag 'combined' found using 'kind' does not match",
        ),
        (lambda d: d.update(input_px=16), "input_px 16 is not the largest of the members' \\(32\\)"),
        (lambda d: d["members"][0].update(wide=1), r"members\.0\.wide: no such field; did you mean width\?"),
        (lambda d: d.update(weights=[1.0, 1.0, 1.0]), "weights has 3 numbers for 2 members"),
        (lambda d: d.update(bins=10**9), "bins"),
    ],
)
def test_a_bundle_that_says_what_none_may_is_refused(
    fitted: Callable[..., str], tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_bundle(_broken(fitted(), change, tmp_path))


def test_a_combination_of_combinations_is_refused(members: tuple[str, str], fitted: Callable[..., str]) -> None:
    uri = fitted()
    with pytest.raises(InputError, match=f"{uri} is a combination itself; name the bundles that it was made of"):
        read_members([uri, members[0]])


def test_members_that_are_one_or_read_other_tiles_are_refused(members: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are the same bundle"):
        read_members([members[0], members[0]])
    other = TILES.model_copy(update={"mpp": 0.5, "max_coarser": 0.0})
    write_bundle(str(tmp_path), build_networks(GAN), name="n", detector=GAN, tiles=other)
    with pytest.raises(
        InputError, match=r"read different tiles: mpp 1\.0 and 0\.5; max_coarser 0\.03 and 0\.0; a comb"
    ):
        read_members([members[0], str(tmp_path)])


def test_members_without_a_common_centre_are_refused() -> None:
    odd = DPA.model_copy(update={"input_px": 33})
    with pytest.raises(ValueError, match=r"members of \[16, 33\] px have no common centre"):
        combined.check_sides((GAN, odd), input_px=33)


@pytest.mark.parametrize("bundles", [["a"], [], ["a"] * 9])
def test_two_to_eight_members(bundles: list[str]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(DetectorConfig)
    with pytest.raises(ValidationError, match="bundles"):
        adapter.validate_python({"kind": "combined", "bundles": bundles})


def test_a_member_that_has_changed_since_is_refused(members: tuple[str, str]) -> None:
    config = _config(members)
    other = config.model_copy(update={"members": (GAN.model_copy(update={"kappa": 0.5}), DPA)})
    with pytest.raises(InputError, match="is another detector than when this training began"):
        build_networks(other)


def test_a_detector_without_its_members_is_refused() -> None:
    with pytest.raises(InputError, match="members are not known"):
        build_networks(combined.Config(kind="combined", bundles=("a", "b")))


def test_it_has_the_cells_of_the_widest_member() -> None:
    nuclei = enlarged_nuclei.Config(kind="enlarged_nuclei", input_px=40, mpp=1.0)
    for members, has_cells in (((DPA, GAN), False), ((GAN, nuclei), True), ((nuclei.model_copy(update={"input_px": 32}),
                               DPA.model_copy(update={"input_px": 40})), False)):  # fmt: skip
        config = combined.Config(kind="combined", members=members, input_px=max(m.input_px for m in members))
        assert combined.detector(config, {}, device="cpu", stages=()).has_cells is has_cells


def test_three_members_one_without_a_picture(fitted: Callable[..., str], members: tuple[str, str]) -> None:
    """Put together by hand: one that shows nothing stands first."""
    brightness = Detector(lambda x: x.mean((1, 2, 3)), lambda z: None, lambda x, x_hat, z: (z, x.mean(1)),
                          input_px=32, device=torch.device("cpu"), has_picture=False, has_cells=True)  # fmt: skip
    stages = [load_detector(uri) for uri in members]
    together = [brightness, *stages]
    assert [with_map(together), with_map(stages), with_map(together[::-1])] == [0, 1, 2]
    normal = NormalScores(3, bins=50)
    score = CombinedScore(together, normal, rule="fisher", weights=None)
    x = to_input(ASKED, 32)
    with torch.no_grad():
        z = MembersMap(together)(x)
        x_hat = ShownPicture(together, side_px=32)(z)
        scores, maps = score.of_members(x, x_hat, z)
    assert x_hat is not None
    assert maps[score.mapped].shape == (70, 32, 32)
    np.testing.assert_allclose(scores[0], x.mean((1, 2, 3)))
    for i, detector in enumerate(stages, start=1):
        np.testing.assert_allclose(scores[i], detector(ASKED).score, atol=1e-6)


def test_arguments_reach_the_detector(fitted: Callable[..., str]) -> None:
    uri = fitted()
    assert load_detector(uri, batch_tiles=7).batch_tiles == 7
    with pytest.raises(RuntimeError, match="was not loaded"):
        load_detector(uri, stages=["map"]).score(torch.zeros(1), None, (torch.zeros(1),))
    bundle = read_bundle(uri)
    networks = build_networks(bundle.detector, pretrained=False)
    assert build_detector(bundle.detector, networks, stages=["map"]).input_px == 32
