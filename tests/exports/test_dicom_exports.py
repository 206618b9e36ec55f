"""Parametric maps and segmentations of DICOM slides, read by highdicom and pydicom."""

import dataclasses
import io
import logging
import shutil
import subprocess
import warnings
from pathlib import Path
from types import ModuleType

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_slides import ORIGIN_MM, PATIENT, SIZE, SPACING_MM, missing_attributes, source, write_series
from highdicom.spatial import PixelToReferenceTransformer, ReferenceToPixelTransformer
from pictured_slides import pictured, place
from seaweed import SeaweedServer

from uadray.errors import InputError, SlideError
from uadray.exports import dicom_parametric_map, dicom_seg
from uadray.exports.exported_slide import ExportedSlide, ExportOptions
from uadray.slides.opening import open_slide
from uadray.storage import objects
from uadray.storage.slide_files import slide_files
from uadray.tiles.spec import TileSpec

LEVEL0 = ExportOptions()
BOTH = [dicom_parametric_map, dicom_seg]


def _slide(path: Path | str, **more: object) -> ExportedSlide:
    return pictured(SIZE, uri=str(path), **{"marker": 555, "unscored": 3, **more})


def _read(data: bytes) -> highdicom.Image:
    return highdicom.imread(io.BytesIO(data))


def _marked(data: bytes) -> np.ndarray:
    """Rows and columns of the marker's first and last pixel."""
    matrix = _read(data).get_total_pixel_matrix()
    marked = np.argwhere(np.squeeze(matrix) == 1)
    return np.stack([marked.min(0), marked.max(0)])


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize(("factors", "factor", "size"), [((1, 4, 16), 16, (188, 251)), ((1,), 8, (376, 501))])
def test_pixels_lie_on_the_tile(
    tmp_path: Path, module: ModuleType, factors: tuple[int, ...], factor: int, size: tuple[int, int]
) -> None:
    slide = _slide(write_series(tmp_path, factors=factors))
    data = module.exported(slide, LEVEL0)
    image = _read(data)
    assert (image.TotalPixelMatrixRows, image.TotalPixelMatrixColumns) == size
    x, y, width, height = place(slide, 555)
    expected = np.array([[y, x], [y + height, x + width]]) / factor
    assert np.abs(_marked(data) + np.array([[0], [1]]) - expected).max() <= 0.5
    level = next(factor_ for factor_ in factors if factor_ == (factor if factor in factors else 1))
    assert (
        image.SourceImageSequence[0].ReferencedSOPInstanceUID == source(tmp_path / f"level_{level}.dcm").SOPInstanceUID
    )
    assert image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [SPACING_MM * factor] * 2


def test_picture_of_own_pixels_lies_at_the_same_place_on_the_glass(tmp_path: Path) -> None:
    """The centre of the marker's pixels is the centre of the tile, in millimetres from the glass's corner."""
    slide = _slide(write_series(tmp_path, factors=(1,)))
    image = _read(dicom_parametric_map.exported(slide, LEVEL0))
    first, last = _marked(dicom_parametric_map.exported(slide, LEVEL0))
    centre = np.array([[first[1] + last[1], first[0] + last[0]]]) / 2
    origin = image.TotalPixelMatrixOriginSequence[0]
    to_glass = PixelToReferenceTransformer(
        (origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem, 0),
        image.ImageOrientationSlide,
        image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing,
    )
    of_source = ReferenceToPixelTransformer((*ORIGIN_MM, 0), image.ImageOrientationSlide, (SPACING_MM, SPACING_MM))
    x, y, width, height = place(slide, 555)
    on_slide = of_source(to_glass(np.rint(centre).astype(int)))[0, :2]
    assert np.abs(on_slide - [x + (width - 1) / 2, y + (height - 1) / 2]).max() <= 8


def test_map_has_the_scores(tmp_path: Path) -> None:
    slide = _slide(write_series(tmp_path))
    image = _read(dicom_parametric_map.exported(slide, LEVEL0))
    scores = image.get_total_pixel_matrix(apply_real_world_transform=True)
    assert set(np.unique(scores[np.isfinite(scores)]).tolist()) == {float(np.float32(0.2)), 1.0}
    x, y, width, height = place(slide, 3)  # the tile without a score
    assert np.isnan(scores[(y + height // 2) // 16, (x + width // 2) // 16])
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeMeaning == "no units"
    assert (image.SOPClassUID.name, image.ContentQualification) == ("Parametric Map Storage", "RESEARCH")


def test_segment_says_what_it_is(tmp_path: Path) -> None:
    slide = _slide(write_series(tmp_path), calibration_id="cal-7")
    data = dicom_seg.exported(slide, ExportOptions(threshold=0.95))
    segments = highdicom.seg.segread(io.BytesIO(data))
    (segment,) = segments.SegmentSequence
    assert segment.SegmentLabel == "Tile score above 0.95"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "49755003"
    named = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (named.AlgorithmName, named.AlgorithmVersion) == ("made-up", "cal-7")
    assert "research use" in segments.ContentDescription


def test_only_frames_with_something_in_them_and_where_they_lie(tmp_path: Path) -> None:
    slide = _slide(write_series(tmp_path, factors=(1, 16), Rows=64, Columns=64))
    segments = highdicom.seg.segread(io.BytesIO(dicom_seg.exported(slide, LEVEL0)))
    x, y, width, height = place(slide, 555)
    places = {
        (each.PlanePositionSlideSequence[0].ColumnPositionInTotalImagePixelMatrix,
         each.PlanePositionSlideSequence[0].RowPositionInTotalImagePixelMatrix)
        for each in segments.PerFrameFunctionalGroupsSequence
    }  # fmt: skip
    columns = {int(a / 16) // 64 for a in (x + 8, x + width - 8)}
    rows = {int(a / 16) // 64 for a in (y + 8, y + height - 8)}
    assert places == {(column * 64 + 1, row * 64 + 1) for column in columns for row in rows}
    assert segments.DimensionOrganizationType == "TILED_SPARSE"


def test_tile_at_the_threshold_is_not_above_it(tmp_path: Path) -> None:
    slide = _slide(write_series(tmp_path))  # 0.2 as 32 bits is more than 0.2
    segments = _read(dicom_seg.exported(slide, ExportOptions(threshold=0.2)))
    below = _read(dicom_seg.exported(slide, ExportOptions(threshold=0.2 - 1e-12)))
    assert 30 < segments.get_total_pixel_matrix().sum() < 50 < 40_000 < below.get_total_pixel_matrix().sum()


def test_nothing_above_the_threshold_is_an_empty_segment(tmp_path: Path) -> None:
    slide = _slide(write_series(tmp_path))
    segments = highdicom.seg.segread(io.BytesIO(dicom_seg.exported(slide, ExportOptions(threshold=2))))
    assert segments.get_total_pixel_matrix(combine_segments=True).max() == 0


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("factors", [(1, 4, 16), (1,)])
def test_required_attributes_are_there(tmp_path: Path, module: ModuleType, factors: tuple[int, ...]) -> None:
    dataset = pydicom.dcmread(io.BytesIO(module.exported(_slide(write_series(tmp_path, factors=factors)), LEVEL0)))
    assert missing_attributes(dataset) == []
    del dataset.ContentLabel, dataset.StudyInstanceUID
    assert len(missing_attributes(dataset)) == 2


@pytest.mark.parametrize("module", BOTH)
def test_patient_is_the_source_s_and_is_told_to_nobody(
    tmp_path: Path, module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_series(tmp_path)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        image = _read(module.exported(_slide(path), LEVEL0))
    assert {name: str(image.get(name)) for name in PATIENT} == PATIENT
    of_source = source(path)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "ContainerIdentifier", "AccessionNumber"):
        assert image.get(name) == of_source.get(name)
    assert image.SeriesInstanceUID != of_source.SeriesInstanceUID
    told = caplog.text + "".join(str(each.message) for each in caught)
    assert not any(value in told for value in ("Bono", "MRN-77", "19600510"))


def test_same_export_has_the_same_identifiers(tmp_path: Path) -> None:
    slide = _slide(write_series(tmp_path))
    first, again = (_read(dicom_seg.exported(slide, LEVEL0)) for _ in range(2))
    other = _read(dicom_seg.exported(slide, ExportOptions(threshold=0.1)))
    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    pm = _read(dicom_parametric_map.exported(slide, LEVEL0))
    assert pm.SeriesInstanceUID != first.SeriesInstanceUID


@pytest.mark.parametrize("module", BOTH)
def test_other_formats_are_refused_by_name(module: ModuleType) -> None:
    with pytest.raises(SlideError, match=r"slide a: is no DICOM slide, and .* export it as ome-tiff or dzi"):
        module.exported(pictured(uri="s3://bucket/Jane Doe.svs"), LEVEL0)
    with pytest.raises(SlideError, match="nothing tells where its file lies"):
        module.exported(pictured(uri=None), LEVEL0)


def test_sources_that_are_empty_where_they_may_be(tmp_path: Path) -> None:
    none = dict.fromkeys([*PATIENT, "StudyDate", "StudyTime", "StudyID", "AccessionNumber"])
    image = _read(dicom_seg.exported(_slide(write_series(tmp_path, **none)), LEVEL0))
    assert image.PatientID in (None, "")
    assert missing_attributes(image) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ImageOrientationSlide": None}, "its DICOM lacks ImageOrientationSlide, so that nothing can be placed on it"),
        ({"FrameOfReferenceUID": None}, "its DICOM lacks FrameOfReferenceUID"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "THUMBNAIL", "NONE"]}, "none of its DICOM files is a level"),
        ({"TotalPixelMatrixColumns": 2**31}, "claims a size that no slide has"),
        ({"TotalPixelMatrixColumns": 4000}, "its finest level in DICOM is 4000 x 3003 px"),
    ],
)
def test_source_that_cannot_be_drawn_on(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SlideError, match=message):
        dicom_seg.exported(_slide(write_series(tmp_path, factors=(1,), **wrong)), LEVEL0)


def test_frames_are_not_as_large_as_a_header_claims(tmp_path: Path) -> None:
    path = write_series(tmp_path, factors=(1, 16), Rows=65535, Columns=65535)
    assert (_read(dicom_parametric_map.exported(_slide(path), LEVEL0)).Rows) == 188


@pytest.mark.s3
def test_slide_in_s3(tmp_path: Path, s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    path = write_series(tmp_path)
    for file in tmp_path.iterdir():
        objects.write_bytes(f"s3://slides/dicom-exports/{file.name}", file.read_bytes())
    here, there = (
        _read(dicom_parametric_map.exported(_slide(uri), LEVEL0))
        for uri in (path, f"s3://slides/dicom-exports/{path.name}")
    )
    assert here.SOPInstanceUID == there.SOPInstanceUID
    np.testing.assert_array_equal(here.get_total_pixel_matrix(), there.get_total_pixel_matrix())


def test_changed_and_broken_sources_are_refused(tmp_path: Path) -> None:
    path = write_series(tmp_path, factors=(1,))
    etag = slide_files(str(path)).etag
    assert dicom_seg.exported(_slide(path, etag=etag), LEVEL0)
    with pytest.raises(SlideError, match="have changed since they were scored"):
        dicom_seg.exported(_slide(path, etag="another"), LEVEL0)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\x28\x00\x30\x00DS", b"\x28\x00\x30\x00D\xff"))  # within a sequence
    with pytest.raises(SlideError, match=r"no DICOM header .NotImplementedError."):
        dicom_seg.exported(_slide(path), LEVEL0)
    path.write_bytes(whole[:900])
    with pytest.raises(SlideError, match=r"no DICOM header|none of its DICOM files|lacks"):
        dicom_seg.exported(_slide(path), LEVEL0)


def test_absurd_header_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadray.exports.dicom_source.MAX_HEADER_BYTES", 2**20)
    path = write_series(tmp_path, factors=(1,), EncapsulatedDocument=b"x" * 2**21)
    with pytest.raises(SlideError, match=r"level_1\.dcm: no DICOM header"):
        dicom_seg.exported(_slide(path), LEVEL0)


def test_no_score_and_no_threshold_are_said(tmp_path: Path) -> None:
    slide = _slide(write_series(tmp_path))
    with pytest.raises(InputError, match="give --threshold"):
        dicom_seg.exported(dataclasses.replace(slide, scale=None), LEVEL0)
    with pytest.raises(SlideError, match="has no tiles"):
        dicom_seg.exported(dataclasses.replace(slide, tiles=slide.tiles.slice(0, 0)), LEVEL0)
    unscored = slide.tiles.slice(3, 1)
    with pytest.raises(SlideError, match="none of its tiles has a score"):
        dicom_parametric_map.exported(dataclasses.replace(slide, tiles=unscored), LEVEL0)


@pytest.mark.parametrize("module", BOTH)
def test_dciodvfy_finds_nothing_wrong(tmp_path: Path, module: ModuleType) -> None:
    """David Clunie's check of DICOM files against the standard."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("NO dciodvfy: apt-get install dicom3tools")
    path = tmp_path / "picture.dcm"
    path.write_bytes(module.exported(_slide(write_series(tmp_path / "slide")), LEVEL0))
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert told.returncode == 0
    assert "Error" not in told.stderr + told.stdout


def test_real_slide(data_dir: Path) -> None:
    """A slide that is painted with boxes of 8 px, as OpenSlide and uadray open it."""
    path = data_dir / "wsi" / "boxes_0.dcm"
    with open_slide(path, slide_id="a") as opened:
        size, mpp = opened.level_sizes_px[0], opened.mpp
    spec = TileSpec(mpp=mpp, tile_px=8, quality=None)
    slide = pictured(size, mpp=mpp, spec=spec, marker=2, uri=str(path), etag=slide_files(str(path)).etag)
    for module in BOTH:
        matrix = np.squeeze(_read(module.exported(slide, LEVEL0)).get_total_pixel_matrix())
        assert matrix.shape == (16, 16)
        assert (matrix[8:, :8] == 1).all()
        assert (matrix == 1).sum() == 64
