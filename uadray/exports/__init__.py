"""Scores and decisions in the formats that other tools open: files of each slide, from a folder or s3:// to either.

    source      a screening's folder, or a scores.parquet -> slides with their tiles, one at a time
    catalog     the formats by name, one module each
    run         an export: what is missing or out of date is made, by several processes (`workers`)
    made        which files are there already, and of which decision

A format is a function, pure but for what it reads of the slide's own file:

    def exported(slide: ExportedSlide, options: ExportOptions) -> bytes | dict[str, bytes]

It gives the slide's file, or several by what follows the slide's id in their names; the first is put last. What cannot
be written in a format is an `InputError` or `SlideError` with the reason: the slide is named, and the others are
finished.
"""
