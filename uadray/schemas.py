"""The pyarrow schemas of all tables that are written for others to read."""

import pyarrow as pa

SLIDES = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("mpp", pa.float64()),
        pa.field("patient_id", pa.string()),
        pa.field("site", pa.string()),
        pa.field("scanner", pa.string()),
        pa.field("stain", pa.string()),
        pa.field("split", pa.string()),
        pa.field("label", pa.string()),
    ]
)
"""A manifest, one row a slide. Only `slide_id` and `uri` are required; `mpp` overrides what the slide's file says."""

TILES = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("x_level0_px", pa.int64(), nullable=False),
        pa.field("y_level0_px", pa.int64(), nullable=False),
        pa.field("width_level0_px", pa.int64(), nullable=False),
        pa.field("height_level0_px", pa.int64(), nullable=False),
        pa.field("tissue_fraction", pa.float32(), nullable=False),
        pa.field("band", pa.string(), nullable=False),
    ]
)
"""The grid of a slide: where each tile lies in level-0 pixels, and how much of it is tissue (0 to 1)."""

TILE_SCORES = pa.schema(
    [
        *TILES,
        pa.field("score", pa.float64()),
        pa.field("mean_saturation", pa.float32()),
        pa.field("mean_green", pa.float32()),
        pa.field("flag", pa.string()),
        pa.field("error", pa.string()),
    ]
)
"""A scored grid. `score` is null where `error` or `flag` is not: a tile that cannot be read, or that shows no good
tissue, has no score. `flag` says what a tile shows instead of good tissue (`pen`, `fold`, `air`, `blur`,
`out_of_focus`). `mean_saturation` and `mean_green` are the trivial scores that a detector has to beat (both from 0 to
1)."""

CELLS = pa.field("cells", pa.list_(pa.float32()))
"""One more column of `TILE_SCORES`, which the files of detectors without cells do not have: where in the tile its score
comes from, k x k numbers row by row from the upper left (k = 6 at most). They are of the centre of the tile that the
detector sees, on a scale of their own, with about three digits; null where there is no score."""

SLIDE_DECISIONS = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("decision", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("p_value", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("alpha", pa.float64()),
        pa.field("calibration_id", pa.string()),
        pa.field("n_tiles", pa.int64()),
        pa.field("n_scored", pa.int64()),
        pa.field("coverage", pa.float64()),
        pa.field("mpp_level0", pa.float64()),
        pa.field("width_level0_px", pa.int64()),
        pa.field("height_level0_px", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("flags", pa.string()),
        pa.field("evidence", pa.string()),
        pa.field("mask", pa.string()),
        pa.field("note", pa.string()),
        pa.field("pictures", pa.string()),
        pa.field("site", pa.string()),
        pa.field("scanner", pa.string()),
        pa.field("stain", pa.string()),
        pa.field("decided_at", pa.string()),
        pa.field("tile_score_median", pa.float64()),
        pa.field("saturation", pa.float64()),
        pa.field("green", pa.float64()),
        pa.field("focus", pa.float64()),
        pa.field("tissue_share", pa.float64()),
        pa.field("read_seconds", pa.float64()),
        pa.field("score_seconds", pa.float64()),
        pa.field("patient", pa.string()),
        pa.field("calibration_group", pa.string()),
        pa.field("calibration_group_slides", pa.int64()),
        pa.field("false_alarm_low", pa.float64()),
        pa.field("false_alarm_high", pa.float64()),
        pa.field("p_smoothed", pa.float64()),
        pa.field("calibration_holds", pa.bool_()),
        pa.field("q_value", pa.float64()),
        pa.field("bounds_x_level0_px", pa.int64()),
        pa.field("bounds_y_level0_px", pa.int64()),
        pa.field("bounds_width_level0_px", pa.int64()),
        pa.field("bounds_height_level0_px", pa.int64()),
    ]
)
"""One row a slide. `state` is `scored`, `not_assessable` or `failed`; the last two carry a `reason` and no score.
`decision` is `normal`, `anomalous` or `not_assessable`, and null for a failed slide. `coverage` is the number of scored
tiles over that of tissue tiles without a flag. `n_tiles` counts all tissue tiles; `flags` is JSON: by flag, how many of
them have it.
`evidence` is JSON: the tiles with the highest scores, best first, each
`{"tile_id", "x_level0_px", "y_level0_px", "score"}`. `fingerprint` names configuration, bundle and slide version,
`mask` the version of the edited mask that was used. `note` is `training` or `calibration` where the slide was used for
that, so that its p-value says nothing new. `pictures` is where the slide's pictures lie beside `decisions.parquet`: one
file with all of them (see `reports.evidence_sheet`), null where they are files in the folder `evidence/<slide_id>`.
`site`, `scanner` and `stain` are the manifest's; null where it does not say, and of decisions of older versions.
`decided_at` is in UTC (ISO 8601, milliseconds). `tile_score_median` to `tissue_share` tell of the slide as a whole (see
`decisions.slide_measures`); `read_seconds` and `score_seconds` are how long one reader and one scorer were at work on
it, of all bundles together. `patient` is a hash, the same for all slides of a patient that a calibration decides; null
where the manifest does not say. All of these are null in decisions of older versions, and the measures and seconds
where nothing was read or scored.
`calibration_group` names the normal slides that the p-value was computed with: `site=North, scanner=S360`, or `pool`
for all of the calibration; `calibration_group_slides` is their number, one a patient. `false_alarm_low` and
`false_alarm_high` are the 95 % interval of the false-alarm rate that they give (see `decisions.conformal`),
`p_smoothed` is the p-value with ties and the slide's own place drawn at random, where the calibration asks for it.
`calibration_holds` is false where the slides of the same site and scanner have drifted from the calibration's, true
where enough of them were judged and no more are called than chance allows, and null where nobody can tell. `q_value` is
the lowest false discovery rate at which an archive's list would have the slide (Benjamini and Hochberg 1995); it is
null in `decisions/`, since it is known when all slides are. `bounds_*` is the scanned region of a slide whose level 0
is larger (OpenSlide's bounds), in level-0 pixels; null where the slide does not say. All of these are null in decisions
of older versions."""
