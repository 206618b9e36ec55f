"""YAML -> frozen models; every refusal names the file, the field and the nearest name that exists."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from uadray.config import load_config, parse_config
from uadray.detectors import dpa, fanogan
from uadray.errors import InputError
from uadray.training.config import TrainConfig

TEXT = """
name: small
detector:
  kind: dpa
  input_px: 64
  width: 8
tiles:
  mpp: 0.5
  tile_px: 96
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "train.yaml"
    file.write_text(TEXT)
    return file


def _refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(TrainConfig, path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reads_and_fills_defaults(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert isinstance(config.detector, dpa.Config)
    assert (config.detector.width, config.tiles.mpp, config.batch_size) == (8, 0.5, 32)
    assert config.tiles.stride == 96


@pytest.mark.parametrize(
    ("section", "kind", "name"),
    [
        ("detector", "dpa", "dpa"), ("detector", "fanogan", "fanogan"), ("generator", "wgan_gp", "wgan_gp"),
        ("classifier", "densenet121", "classifier"),
    ],
)  # fmt: skip
def test_shipped_configurations_are_valid(section: str, kind: str, name: str) -> None:
    folder = Path(__file__).parents[1] / "configs" / "train"
    config = load_config(TrainConfig, folder / f"{name}.yaml")
    assert config.section == section
    assert getattr(config, section).kind == kind


def test_the_trainings_are_told_in_order() -> None:
    """Each has a row in the table beside them, and one is recommended: the first."""
    folder = Path(__file__).parents[1] / "configs" / "train"
    rows = re.findall(r"^\| (\*\*)?`(\w+\.yaml)`", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for _, name in rows} == {path.name for path in folder.glob("*.yaml")}
    assert [bool(mark) for mark, _ in rows] == [True] + [False] * (len(rows) - 1)


def test_the_generators_are_told() -> None:
    """Each file trains the generator that it is named after, of 64 px, and has a row in the table beside it."""
    folder = Path(__file__).parents[1] / "configs" / "train" / "generators"
    configs = {path.stem: load_config(TrainConfig, path) for path in folder.glob("*.yaml")}
    rows = re.findall(r"^\| `(\w+)\.yaml`", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(configs) == set(rows)
    for name, config in configs.items():
        assert config.generator is not None
        assert (config.generator.kind, config.name, config.input_px, config.tiles.mpp) == (name, name, 64, 0.972)
    for name in configs:
        small = load_config(TrainConfig, folder / "two_cores" / f"{name}.yaml")
        assert small.generator is not None
        assert (small.generator.kind, small.name, small.input_px) == (name, name, 32)


def test_the_mappings_are_told() -> None:
    """Each file can be read before its generator is known, and has a row in the table beside it."""
    folder = Path(__file__).parents[1] / "configs" / "train" / "mappings"
    configs = {path.stem: load_config(TrainConfig, path) for path in folder.glob("*.yaml")}
    rows = re.findall(r"^\| `(\w+)\.yaml`", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(configs)
    for name, config in configs.items():
        assert (config.name, config.section, config.tiles.mpp) == (name, "detector", 0.972)
        load_config(TrainConfig, folder / f"{name}.yaml", ["detector.generator=/a/bundle"])


def test_is_frozen(path: Path) -> None:
    config = load_config(TrainConfig, path)
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.detector.width = 3  # type: ignore[misc]


def test_overrides_apply_in_order_and_are_yaml(path: Path) -> None:
    overrides = ["epochs=3", "epochs=4", "detector.width=16", "tiles.min_tissue=0.25", "use_gpu=true"]
    config = load_config(TrainConfig, path, [*overrides, "detector.layers=[block1, block2]", "threads=null"])
    assert (config.epochs, config.detector.width, config.tiles.min_tissue, config.use_gpu) == (4, 16, 0.25, True)
    assert isinstance(config.detector, dpa.Config)
    assert config.detector.layers == ("block1", "block2")
    assert config.threads is None


def test_override_keeps_everything_after_the_first_equals_sign(path: Path) -> None:
    assert load_config(TrainConfig, path, ["name=a=b"]).name == "a=b"


def test_override_can_change_the_kind(path: Path) -> None:
    config = load_config(TrainConfig, path, ["detector={kind: fanogan, input_px: 32}"])
    assert isinstance(config.detector, fanogan.Config)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs", "--set epochs: expected name=value"),
        ("=3", "--set =3: expected name=value"),
        ("name.x=3", "--set name.x=3: name is a value, it has no fields"),
        ("epochs=[1", "--set epochs=[1: not valid YAML"),
        ("epocs=3", "epocs: no such field; did you mean epochs?"),
        ("tiles.tilepx=3", "tiles.tilepx: no such field; did you mean tile_px?"),
        ("detector.widht=3", "detector.widht: no such field; did you mean width?"),
        (
            "tiles.zzzz=3",
            "tiles.zzzz: no such field; known here: mask_dir, max_coarser, min_tissue, mpp, quality, stain, stride_px, "
            "tile_px",
        ),
        ("detector.kind=dpaa", "detector: Input tag 'dpaa'"),
        ("epochs=0", "epochs: Input should be greater than or equal to 1 (got 0)"),
        ("detector.width=wide", "detector.width: Input should be a valid integer"),
    ],
)
def test_refusals(path: Path, override: str, expected: str) -> None:
    assert expected in _refusal(path, override)


def test_a_name_of_the_other_detector_is_no_hint(path: Path) -> None:
    """`latent_dim` exists in f-AnoGAN alone: "did you mean latent_dim?" would send the reader in a circle."""
    message = _refusal(path, "detector.latent_dim=3")
    assert "detector.latent_dim: no such field" in message
    assert "did you mean latent_channels?" in message
    other = _refusal(path, "detector={kind: fanogan}", "detector.latent_channels=3")
    assert "did you mean latent_dim?" in other


def test_every_problem_is_named_at_once(path: Path) -> None:
    message = _refusal(path, "epocs=3", "tiles.mpp=-1", "detector.widht=3")
    assert all(part in message for part in ("epocs", "tiles.mpp", "detector.widht"))


def test_cross_field_check(path: Path) -> None:
    assert "detector.input_px 128 is larger than tiles.tile_px 96" in _refusal(path, "detector.input_px=128")
    assert "detector: Value error, input_px 48 cannot be halved 5 times" in _refusal(
        path, "detector.input_px=48", "detector.halvings=5"
    )
    assert "leaves gaps" in _refusal(path, "tiles.stride_px=97")


@pytest.mark.parametrize("given", [{}, {"detector": {"kind": "dpa"}, "generator": {"kind": "wgan_gp"}}])
def test_either_a_detector_or_a_generator_is_trained(given: dict[str, Any]) -> None:
    values = {"name": "a", "tiles": {"mpp": 0.5, "tile_px": 96}} | given
    with pytest.raises(InputError, match="give one to train: either a detector, or a generator, or a classifier"):
        parse_config(TrainConfig, values, source="here")


def test_a_generator_alone_is_trained() -> None:
    values = {"name": "a", "tiles": {"mpp": 0.5, "tile_px": 96}, "generator": {"kind": "wgan_gp", "input_px": 32}}
    config = parse_config(TrainConfig, values, source="here")
    assert (config.section, config.input_px) == ("generator", 32)
    with pytest.raises(InputError, match=r"generator\.input_px 128 is larger than tiles\.tile_px 96"):
        parse_config(TrainConfig, values | {"generator": {"kind": "wgan_gp", "input_px": 128}}, source="here")


@pytest.mark.parametrize("missing", ["name", "tiles"])
def test_missing_field_is_named(missing: str) -> None:
    values: dict[str, Any] = {"name": "a", "detector": {"kind": "dpa"}, "tiles": {"mpp": 0.5, "tile_px": 96}}
    del values[missing]
    with pytest.raises(InputError, match=f"^here: {missing}: Field required"):
        parse_config(TrainConfig, values, source="here")


def test_missing_kind_is_named() -> None:
    values = {"name": "a", "detector": {"width": 8}, "tiles": {"mpp": 0.5, "tile_px": 96}}
    with pytest.raises(InputError, match=r"detector: Unable to extract tag using discriminator 'kind'"):
        parse_config(TrainConfig, values, source="here")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: [1", "not valid YAML"),
        (b"\xff\xfe\x00bad", "not valid YAML"),
        (b"- a\n- b\n", "expected a mapping of fields, found list"),
        (b"", "expected a mapping of fields, found NoneType"),
        (b"!!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"1: 2\n", "1: "),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    message = _refusal(file)
    assert message.startswith(f"configuration {file}")
    assert expected in message


def test_missing_file(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.yaml").endswith("none.yaml: No such file or directory")


def test_a_training_may_see_tiles_that_are_not_scored() -> None:
    given = {"name": "toy", "detector": {"kind": "dpa"}, "tiles": {"mpp": 1.0, "tile_px": 64, "min_tissue": 0.4}}
    assert TrainConfig.model_validate(given).trained_tiles.min_tissue == 0.4
    config = TrainConfig.model_validate(given | {"train_min_tissue": 0})
    assert (config.trained_tiles.min_tissue, config.tiles.min_tissue) == (0, 0.4)


def test_a_training_too_short_for_its_detector_is_refused() -> None:
    given = {"name": "toy", "detector": {"kind": "enlarged_nuclei"}, "tiles": {"mpp": 0.972, "tile_px": 96}}
    TrainConfig.model_validate(given | {"epochs": 2, "steps_per_epoch": 9})
    with pytest.raises(ValidationError, match=r"17 steps .* needs 18 at the least"):
        TrainConfig.model_validate(given | {"epochs": 1, "steps_per_epoch": 17})
