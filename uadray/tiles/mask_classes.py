"""What people mean by the class of a region that they drew: tissue, or something to cut out of it.

Case, plural, blanks, hyphens, numbers and the asterisk that QuPath adds to what it ignores make no difference. Of a
derived class (`Artifact: pen`) one understood part is enough. A class that says neither is refused: taken for tissue, a
correction would be lost without a word.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Meaning = Literal["tissue", "cut_out", "unnamed"]

CUT_OUT = frozenset({
    "ignore", "ignored", "exclude", "excluded", "exclusion", "remove", "removed", "discard", "artefact", "artifact",
    "pen", "penmark", "penmarking", "pentrace", "penstroke", "penink", "marker", "markerpen", "felttip", "feltpen",
    "felttippen", "ink", "fold", "folded", "tissuefold", "foldedtissue", "air", "bubble", "airbubble", "blur",
    "blurred", "blurry", "defocused", "outoffocus", "unfocused", "dust", "dirt", "debris", "contamination",
    "background", "glass", "slideglass", "coverslip", "notissue", "nottissue", "nontissue"
})  # fmt: skip
"""The flags of `quality`, QuPath's `Ignore*`, and other names of what is no tissue, or not fit to be judged."""

TISSUE = frozenset({
    "tissue", "sample", "specimen", "section", "area", "region", "roi", "regionofinterest", "annotation",
    "foreground", "include", "included", "keep", "good", "normal", "tumor", "tumour", "cancer", "carcinoma",
    "metastasis", "metastases", "lesion", "stroma", "necrosis", "immunecell", "lymphocyte", "inflammation",
    "epithelium", "gland", "fat", "adipose", "muscle", "vessel", "other", "positive", "negative"
})  # fmt: skip
"""QuPath's own classes, and others that people give to tissue."""

UNNAMED = frozenset({"", "none", "null", "unnamed", "unclassified", "noclass"})

_SHOWN = 60


class UnclearError(ValueError):
    """What a region was drawn for is not clear."""


def meaning(names: Iterable[str]) -> Meaning:
    """What a class means, given the names that it is made of.

    >>> meaning(["Ignore*"]), meaning(["Artifact: pen"]), meaning(["Tumor", "Positive"]), meaning([" "])
    ('cut_out', 'cut_out', 'tissue', 'unnamed')

    Raises:
        UnclearError: it says neither.
    """
    named = [part for name in names for part in re.split(r"[:;,/|()]", name) if _key(part) not in UNNAMED]
    if not named:
        return "unnamed"
    if any(_is_one_of(part, CUT_OUT) or re.search("art[ei]fact", _key(part)) for part in named):
        return "cut_out"
    if any(_is_one_of(part, TISSUE) for part in named):
        return "tissue"
    near = difflib.get_close_matches(_key(named[0])[:_SHOWN], sorted(CUT_OUT | TISSUE), 1, 0.75)
    hint = f" (did you mean {near[0].capitalize()}?)" if near else ""
    shown = ": ".join(part.strip() for part in named)[:_SHOWN]
    raise UnclearError(f"class {shown!r} says neither tissue nor what to cut out{hint}; name it Tissue or Ignore*")


def class_names(feature: Mapping[str, Any]) -> list[str]:
    """The names of a feature's class, as QuPath and others write it; none where it has no class.

    Where there is no class but the region itself bears the name of something to cut out, it is that.

    >>> class_names({"properties": {"classification": {"names": ["Ignore*", "Pen"]}}})
    ['Ignore*', 'Pen']
    >>> class_names({"properties": {"classification": "Pen"}}), class_names({"properties": {"name": "Area 7"}})
    (['Pen'], [])

    Raises:
        UnclearError: a class that is no text.
    """
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return []
    found = next((properties[key] for key in ("classification", "class", "pathClass") if properties.get(key)), None)
    if isinstance(found, dict):
        found = [*_texts(found.get("name") or []), *_texts(found.get("names") or [])]
    names = _texts(found or [])
    own = properties.get("name")
    if isinstance(own, str) and not any(_key(name) for name in names) and _is_one_of(own, CUT_OUT):
        return [own]
    return names


def _texts(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise UnclearError(f"its class {str(value)[:_SHOWN]!r} is no text")
    return values


def _is_one_of(part: str, known: frozenset[str]) -> bool:
    key = _key(part)
    return not known.isdisjoint((key, key.removesuffix("s"), key.removesuffix("es")))


def _key(text: str) -> str:
    """Letters alone, in small letters: what is left when a name is spelt in another way."""
    return "".join(letter for letter in text.casefold() if letter.isalpha())
