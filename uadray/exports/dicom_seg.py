"""Tiles of a DICOM slide whose score is above a threshold, as a binary Segmentation (PS3.3, A.51).

One segment, on the pixels of one of the slide's levels; frames in which nothing is above the threshold are left out,
and each frame says where it lies. The segment is named as what it is, tissue that does not look normal to an algorithm:
SNOMED's morphologically abnormal structure, without a claim of what it is.
"""

import highdicom
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydicom.sr.codedict import codes

from uadray.exports.dicom_derived import algorithm, canvas_of, deriving, file_bytes, image_arguments, long_string
from uadray.exports.exported_slide import ExportedSlide, ExportOptions

SUFFIX = ".seg.dcm"

SERIES_NUMBER = 9102


def exported(slide: ExportedSlide, options: ExportOptions) -> bytes:
    """The file. Places are those of the slide's own total pixel matrix, whatever `options.coordinates` says.

    Raises:
        SlideError: as of `dicom_source.levels_of`.
        InputError: there is no threshold.
    """
    threshold = slide.threshold(options)
    canvas = canvas_of(slide)
    names, scores = slide.tiles.column_names, slide.tiles["score"]
    is_above = pc.greater(scores, threshold).cast(pa.float64())  # of the scores themselves, which are not 32 bits long
    marked = canvas.scores(slide.tiles.set_column(names.index("score"), "score", is_above))
    above = np.nan_to_num(marked, nan=0).astype(np.uint8)
    abnormal = codes.SCT.MorphologicallyAbnormalStructure
    segment = highdicom.seg.SegmentDescription(
        segment_number=1, segment_label=long_string(f"Tile score above {threshold:.6g}"),
        segmented_property_category=abnormal, segmented_property_type=abnormal, algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm(slide),
    )  # fmt: skip
    with deriving(slide):
        image = highdicom.seg.Segmentation(
            pixel_array=above, segmentation_type="BINARY", segment_descriptions=[segment],
            content_label="ABNORMAL_TILES", content_description="Tiles unlike normal tissue; for research use only",
            series_description="Tiles unlike normal (research use only)", omit_empty_frames=True,
            dimension_organization_type="TILED_SPARSE",
            **image_arguments(canvas, slide, kind=f"segmentation {threshold!r}", number=SERIES_NUMBER),
        )  # fmt: skip
        return file_bytes(image)
