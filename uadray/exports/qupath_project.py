"""A QuPath project of all slides with their regions: GeoJSON files, a list of slides, and the script that makes it.

    geojson/<slide_id>.geojson    as `qupath_geojson` writes them
    slides.json                   where each slide is, and what was decided
    make_project.groovy           run in QuPath (Automate > Script editor), or by `QuPath script`

QuPath writes its own project files, so the script asks it to: it adds each slide that QuPath can open, imports its
regions, and notes decision, p-value and score as metadata by which the list can be sorted. Run again, it takes up
slides that are new. Paths and names come from `slides.json` and are never program text; of the script only the folder
is part, as a string in which all that could end it is escaped.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uadray.exports.exported_slide import ExportedSlide, ExportOptions, finite
from uadray.exports.qupath_geojson import exported as geojson

FOLDER, SUFFIX, VERSION = "geojson", ".geojson", 1

SCRIPT, SLIDES = "make_project.groovy", "slides.json"

GROOVY = """\
// Makes a QuPath project (0.4 or newer) of screened slides and their regions. Written by uadray.
// In QuPath: Automate > Script editor > Run. From a shell: QuPath script make_project.groovy --args FOLDER
// FOLDER is where this script lies, with slides.json and geojson/: on a disk, so copy them from S3 first.
import groovy.json.JsonSlurper
import java.awt.image.BufferedImage
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.PathIO
import qupath.lib.projects.ProjectIO
import qupath.lib.projects.Projects

def folder = new File(args ? args[0] : @FOLDER@)
if (!new File(folder, 'slides.json').isFile()) {
    println 'There is no slides.json in ' + folder + ': give the folder of this script by --args'
    return
}
def listed = new JsonSlurper().parse(new File(folder, 'slides.json'), 'UTF-8')
def place = new File(folder, 'project')
place.mkdirs()
def file = new File(place, 'project.qpproj')
def project = file.isFile() ? ProjectIO.loadProject(file, BufferedImage.class)
                            : Projects.createProject(place, BufferedImage.class)
def there = project.getImageList().collect { it.getImageName() } as Set
int added = 0, skipped = 0
for (slide in listed.slides) {
    if (slide.name in there) continue
    try {
        def support = ImageServerProvider.getPreferredUriImageSupport(BufferedImage.class, slide.image)
        if (support == null || support.getBuilders().isEmpty()) {
            println 'QuPath cannot open ' + slide.image
            skipped++
            continue
        }
        def entry = project.addImage(support.getBuilders().get(0))
        entry.setImageName(slide.name)
        slide.metadata.each { key, value -> entry.putMetadataValue(key, value) }
        def data = entry.readImageData()
        data.setImageType(ImageData.ImageType.BRIGHTFIELD_H_E)
        def regions = new File(new File(folder, 'geojson'), slide.geojson)
        if (regions.isFile()) data.getHierarchy().addObjects(PathIO.readObjects(regions))
        entry.saveImageData(data)
        added++
    } catch (Exception error) {
        println slide.name + ': ' + error
        skipped++
    }
}
project.syncChanges()
println added + ' slides added, ' + skipped + ' skipped; open ' + file
"""


def exported(slide: ExportedSlide, options: ExportOptions) -> bytes:
    """The GeoJSON of a slide."""
    return geojson(slide, options)


def project_files(rows: Iterable[Mapping[str, Any]], folder: str) -> dict[str, bytes]:
    """The script, and the list of slides that it reads.

    Args:
        rows: decisions, of `SLIDE_DECISIONS`, in the order in which QuPath lists slides.
        folder: where they are put. QuPath reads disks alone; of a folder in S3 the script says so.
    """
    slides = [
        {"name": row["slide_id"], "image": _image(str(row["uri"])), "geojson": f"{row['slide_id']}{SUFFIX}",
         "metadata": _metadata(row)}
        for row in rows
        if row.get("uri")
    ]  # fmt: skip
    data = json.dumps({"slides": slides}, ensure_ascii=False, indent=1)
    script = GROOVY.replace("@FOLDER@", groovy_string(folder))
    return {SLIDES: data.encode(), SCRIPT: script.encode()}


def _metadata(row: Mapping[str, Any]) -> dict[str, str]:
    """What a slide's entry in the project shows."""
    values = {"Decision": row.get("decision"), "p-value": row.get("p_value"), "Score": row.get("score")}
    values |= {"Site": row.get("site"), "Scanner": row.get("scanner")}
    shown = {name: finite(value) if isinstance(value, float) else value for name, value in values.items()}
    return {
        name: f"{value:.6g}" if isinstance(value, float) else str(value)
        for name, value in shown.items()
        if value is not None
    }


def _image(uri: str) -> str:
    """A slide's URI as QuPath takes it: of a path `file:///`, percent-encoded."""
    return uri if "://" in uri else Path(os.path.abspath(uri)).as_uri()  # noqa: PTH100


def groovy_string(text: str) -> str:
    r"""A text as a Groovy string in single quotes, in which nothing is interpolated.

    >>> print(groovy_string("C:\\it's ${here}"))
    'C:\\it\'s ${here}'
    """
    units = memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")
    return "'" + "".join(map(_groovy_character, units)) + "'"


def _groovy_character(code: int) -> str:
    """One unit of UTF-16: as it is where it is printable ASCII, and cannot end the string."""
    if chr(code) in "\\'":
        return f"\\{chr(code)}"
    return chr(code) if 32 <= code < 127 else f"\\u{code:04x}"
