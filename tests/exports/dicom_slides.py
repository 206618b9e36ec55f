"""Headers of a slide in DICOM, as scanners write them: levels, a label and an overview, whose pixels are never read."""

from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SIZE, SPACING_MM, ORIGIN_MM = (4001, 3003), 0.0005, (12.5, 40.25)
ORIENTATION = [0, -1, 0, -1, 0, 0]
PATIENT = {"PatientID": "MRN-77", "PatientName": "Bono", "PatientBirthDate": "19600510", "PatientSex": "M"}


def write_series(folder: Path, *, factors: tuple[int, ...] = (1, 4, 16), **more: Any) -> Path:
    """Write the files of a series; returns the path of one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    series = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    for number, factor in enumerate(factors, start=1):
        level = header(factor, number, **{**series, **more})
        level.save_as(folder / f"level_{factor}.dcm", enforce_file_format=True)
    for number, kind in enumerate(("LABEL", "OVERVIEW"), start=50):
        level = header(1, number, **{**series, **more})
        level.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
        level.TotalPixelMatrixColumns = level.TotalPixelMatrixRows = 9000
        level.save_as(folder / f"{kind.lower()}.dcm", enforce_file_format=True)
    return folder / f"level_{factors[-1]}.dcm"


def header(factor: int, number: int, **more: Any) -> FileDataset:
    """A level's instance without pixels that anybody looks at."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    level = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    level.SOPClassUID, level.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for name, value in {
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE" if factor == 1 else "RESAMPLED"], "Modality": "SM",
        "StudyDate": "20200102", "StudyTime": "101112", "StudyID": "S7", "AccessionNumber": "A-9", "SeriesNumber": 1,
        "InstanceNumber": number, "Manufacturer": "Maker", "PositionReferenceIndicator": "SLIDE_CORNER",
        "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8,
        "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "Rows": 256, "Columns": 256, "NumberOfFrames": 1,
        "LossyImageCompression": "01", "LossyImageCompressionRatio": "10", "DimensionOrganizationType": "TILED_FULL",
        "LossyImageCompressionMethod": "ISO_10918_1", "ContainerIdentifier": "C1", "ImageOrientationSlide": ORIENTATION,
        "TotalPixelMatrixColumns": -(-SIZE[0] // factor), "TotalPixelMatrixRows": -(-SIZE[1] // factor),
        **PATIENT, **more,
    }.items():  # fmt: skip
        if value is not None:
            setattr(level, name, value)
    origin, measures, shared = Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = ORIGIN_MM
    measures.PixelSpacing, measures.SliceThickness = [SPACING_MM * factor] * 2, 0.001
    shared.PixelMeasuresSequence = [measures]
    level.TotalPixelMatrixOriginSequence, level.SharedFunctionalGroupsSequence = [origin], [shared]
    level.ContainerTypeCodeSequence, level.SpecimenDescriptionSequence = [Dataset()], [_specimen()]
    level.ContainerTypeCodeSequence[0].update(_code("433466003", "Microscope slide"))
    level.IssuerOfTheContainerIdentifierSequence, level.AcquisitionContextSequence = [], []
    level.PixelData = b"not read"
    return level


def source(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True)


def missing_attributes(dataset: Dataset) -> list[str]:
    """Attributes of the standard's mandatory modules, by highdicom's tables of it, that a dataset lacks or has empty.

    Only what is required at any rate is looked for (types 1 and 2), where it stands under what is there.
    """
    from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map

    iod = get_sop_class_iod_map()[dataset.SOPClassUID]
    modules = [each["key"] for each in get_iod_module_map()[iod] if each["usage"] == "M"]
    modules = [key for key in modules if "functional-groups" not in key]
    wrong = []
    for module in modules:
        for attribute in get_module_attribute_map()[module]:
            parents = [dataset]
            for name in attribute["path"]:
                parents = [item for parent in parents for item in parent.get(name, [])]
            for parent in parents:
                name = attribute["keyword"]
                absent = name not in parent
                empty = attribute["type"] == "1" and not absent and parent[name].is_empty
                if attribute["type"] in ("1", "2") and (absent or empty):
                    wrong.append(f"{module}: {'.'.join([*attribute['path'], name])}")
    return wrong


def _specimen() -> Dataset:
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S1", generate_uid()
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    return specimen


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code
