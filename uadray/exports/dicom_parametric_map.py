"""Scores of a DICOM slide as a Parametric Map (PS3.3, A.75): 32-bit numbers on the pixels of one of its levels.

The numbers are the scores themselves (Real World Value Mapping: slope 1, no unit). Where no tile has a score they are
NaN, which is a value of DICOM's (PS3.5, 8.2; CP-2352). Each frame says where it lies. The window that is recommended is
the scale of heatmaps.
"""

import highdicom
import numpy as np
from pydicom.sr.codedict import codes

from uadray.errors import SlideError
from uadray.exports.dicom_derived import canvas_of, deriving, file_bytes, image_arguments
from uadray.exports.exported_slide import ExportedSlide, ExportOptions

SUFFIX = ".pm.dcm"

SERIES_NUMBER = 9101

SCORE = highdicom.sr.CodedConcept("anomaly-score", "99UADRAY", "Anomaly score")
"""What the numbers are; no public code says it."""


def exported(slide: ExportedSlide, options: ExportOptions) -> bytes:
    """The file. Places are those of the slide's own total pixel matrix, whatever `options.coordinates` says.

    Raises:
        SlideError: as of `dicom_source.levels_of`; `unreadable` where there is no score.
    """
    canvas = canvas_of(slide)
    scores = canvas.scores(slide.tiles)
    if np.isnan(scores).all():
        raise SlideError(slide.slide_id, "unreadable", "none of its tiles has a score")
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))  # 0 is mapped too: it fills the frames at the edge
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="score", lut_explanation="How unlike normal tissue a tile looks", unit=codes.UCUM.NoUnits,
        value_range=(min(low, 0.0), max(high, 0.0)), slope=1.0, intercept=0.0, quantity_definition=SCORE,
    )  # fmt: skip
    if slide.scale is not None:
        low, high = slide.scale.low, slide.scale.high
    window = highdicom.VOILUTTransformation(
        window_center=(low + high) / 2, window_width=max(high - low, 1e-6), voi_lut_function="LINEAR_EXACT"
    )
    with deriving(slide):
        image = highdicom.pm.ParametricMap(
            pixel_array=scores, real_world_value_mappings=[mapping], voi_lut_transformations=[window],
            contains_recognizable_visual_features=False, content_label="ANOMALY_SCORE",
            content_description="Scores of tiles; for research use only", content_qualification="RESEARCH",
            series_description="Anomaly scores (research use only)", dimension_organization_type="TILED_SPARSE",
            **image_arguments(canvas, slide, kind="parametric map", number=SERIES_NUMBER),
        )  # fmt: skip
        return file_bytes(image)
