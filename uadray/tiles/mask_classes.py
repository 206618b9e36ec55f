"""What people mean by the class of a region that they drew: tissue, or something to cut out of the tissue.

Case, plural, blanks, hyphens, numbers and the asterisk that QuPath adds to what it ignores make no difference. Of a
derived class (`Artifact: pen`) it is enough that one part is understood. A class that means neither is refused: if it
were taken for tissue, a correction could be lost without notice.
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
"""Names of what is no tissue or not fit to be judged: the flags of `quality`, QuPath's `Ignore*`, and others."""

TISSUE = frozenset({
    "tissue", "sample", "specimen", "section", "area", "region", "roi", "regionofinterest", "annotation",
    "foreground", "include", "included", "keep", "good", "normal", "tumor", "tumour", "cancer", "carcinoma",
    "metastasis", "metastases", "lesion", "stroma", "necrosis", "immunecell", "lymphocyte", "inflammation",
    "epithelium", "gland", "fat", "adipose", "muscle", "vessel", "other", "positive", "negative"
})  # fmt: skip
"""Names that people give to tissue: QuPath's own classes, and others."""

UNNAMED = frozenset({"", "none", "null", "unnamed", "unclassified", "noclass"})

_SHOWN = 60


class UnclearError(ValueError):
    """It is not clear what a region was drawn for."""


def meaning(names: Iterable[str]) -> Meaning:
    """What a class means, given the names that it consists of.

    >>> meaning(["Ignore*"]), meaning(["Artifact: pen"]), meaning(["Tumor", "Positive"]), meaning([" "])
    ('cut_out', 'cut_out', 'tissue', 'unnamed')

    Raises:
        UnclearError: it means neither tissue nor what to cut out.
    """
    named = [word for name in names for word in re.split(r"[:;,/|()]", name) if _key(word) not in UNNAMED]
    if not named:
        return "unnamed"
    if any(_is_one_of(word, CUT_OUT) or re.search("art[ei]fact", _key(word)) for word in named):
        return "cut_out"
    if any(_is_one_of(word, TISSUE) for word in named):
        return "tissue"
    near = difflib.get_close_matches(_key(named[0])[:_SHOWN], sorted(CUT_OUT | TISSUE), 1, 0.75)
    hint = f" (did you mean {near[0].capitalize()}?)" if near else ""
    shown = ": ".join(word.strip() for word in named)[:_SHOWN]
    raise UnclearError(f"class {shown!r} says neither tissue nor what to cut out{hint}; name it Tissue or Ignore*")


def class_names(feature: Mapping[str, Any]) -> list[str]:
    """The names of a feature's class, as QuPath and others write it; empty where it has no class.

    A region without a class that is itself named like something to cut out has that name as its class.

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
    given = next((properties[key] for key in ("classification", "class", "pathClass") if properties.get(key)), None)
    if isinstance(given, dict):
        given = [*_texts(given.get("name") or []), *_texts(given.get("names") or [])]
    names = _texts(given or [])
    name_of_region = properties.get("name")
    has_class = any(_key(name) for name in names)
    if isinstance(name_of_region, str) and not has_class and _is_one_of(name_of_region, CUT_OUT):
        return [name_of_region]
    return names


def _texts(value: Any) -> list[str]:
    """A text or a list of texts as a list; anything else is refused."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise UnclearError(f"its class {str(value)[:_SHOWN]!r} is no text")
    return values


def _is_one_of(word: str, known: frozenset[str]) -> bool:
    key = _key(word)
    return not known.isdisjoint((key, key.removesuffix("s"), key.removesuffix("es")))


def _key(text: str) -> str:
    """The letters of a name in lower case, which are the same however the name is spelt."""
    return "".join(letter for letter in text.casefold() if letter.isalpha())
