"""Scores and decisions in the formats that other tools open: one file a slide, from a folder or s3:// to either.

    source      a screening's folder, or a scores.parquet -> slides with their tiles, one at a time
    catalog     the formats by name; a format is one module, see below
    made        which files are there already and are of the present decision, so that a run goes on after any stop
    and a module for each format

A format is a module with

    FOLDER: str     its files' folder below `--to`; may be empty
    SUFFIX: str     of a slide's file, which is called <slide_id><SUFFIX>
    VERSION: int    raised when the same slide is written in another way: files of older versions are made anew
    def exported(slide: ExportedSlide, options: ExportOptions) -> bytes | dict[str, bytes]

`exported` is pure: it reads and writes nothing, and holds one slide. Where it gives several files, they are named by
their paths below FOLDER, each of which begins with the slide's id; the last one says that the slide is complete. What
cannot be written in a format is an `InputError` or `SlideError` with the reason: the slide is named, and the others are
finished.
"""
