"""What a search has done, in its folder: it goes on from there after whatever stopped it.

    search.json                the search: of what, which trials were begun in which order, which were stopped early
    folds/<trial>-<fold>.json  a fold that is done, written by the trial itself: its lines, and the scores at its end

A trial is known by the configuration that it trains. The driver alone writes `search.json`. A search that is run again
begins the same trials in the same order; what is done of them is told once more instead of being trained, so that
Optuna and the scheduler come to know what they knew.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from uadray.config import Config, ConfigT
from uadray.errors import InputError
from uadray.provenance import fingerprint
from uadray.storage import objects
from uadray.training.config import TrainConfig
from uadray.training.tune_config import Assignment

SEARCH, FOLDS = "search.json", "folds"

TrialLine = dict[str, float]
"""What a trial tells after an epoch: `fold`, `epoch`, `step` (of the fold), `progress` (of the trial), `fold_auroc`,
`criterion`, and `auroc`, the mean over its folds so far."""


class FoldResult(Config):
    """A fold of a trial that has ended.

    Attributes:
        lines: see `TrialLine`.
        normals: scores of the normal tiles that were judged.
        anomalies: scores of the anomalies.
        seconds: that it took.
        failed: why there are no scores.
    """

    lines: list[TrialLine] = Field(default_factory=list)
    normals: list[float] = Field(default_factory=list)
    anomalies: list[float] = Field(default_factory=list)
    seconds: float = 0.0
    failed: str | None = None


class Search(Config):
    """The content of `search.json`.

    Attributes:
        id: fingerprint of the configuration, the data and what else decides the outcome.
        about: the same for people.
        started: assignments of the trials in the order in which they were begun; of a grid, all its points.
        stopped: by trial, the lines of those that the scheduler has stopped.
    """

    id: str
    about: dict[str, Any] = Field(default_factory=dict)
    started: list[Assignment] = Field(default_factory=list)
    stopped: dict[str, list[TrialLine]] = Field(default_factory=dict)


def trial_key(config: TrainConfig) -> str:
    """By what a trial is known."""
    return fingerprint([config.model_dump_json()])


class Journal:
    """The folder of a search.

    Attributes:
        uri: of the folder.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def search(self) -> Search | None:
        """The search in the folder; None in an empty one.

        Raises:
            InputError: the file is none of ours.
        """
        record_uri = objects.join(self.uri, SEARCH)
        if not objects.exists(record_uri):
            return None
        return _parsed(Search, record_uri)

    def begin(self, id_: str, about: Mapping[str, Any]) -> Search:
        """The search in the folder, or a new one.

        Raises:
            InputError: the folder has another search.
        """
        search = self.search()
        if search is None:
            search = Search(id=id_, about=dict(about))
            self.write(search)
        elif search.id != id_:
            raise InputError(f"{self.uri} holds a search of another configuration or of other data; use another --out")
        return search

    def write(self, search: Search) -> None:
        """Write `search.json`."""
        objects.write_bytes(objects.join(self.uri, SEARCH), search.model_dump_json(indent=1).encode())

    def fold(self, key: str, fold: int) -> FoldResult | None:
        """A fold that is done; None for one that is not."""
        fold_uri = self._fold_uri(key, fold)
        return _parsed(FoldResult, fold_uri) if objects.exists(fold_uri) else None

    def keep(self, key: str, fold: int, result: FoldResult) -> None:
        """Write a fold that is done; whole or not at all."""
        objects.write_bytes(self._fold_uri(key, fold), result.model_dump_json().encode())

    def _fold_uri(self, key: str, fold: int) -> str:
        return objects.join(self.uri, FOLDS, f"{key}-{fold}.json")


def _parsed(model: type[ConfigT], uri: str) -> ConfigT:
    try:
        return model.model_validate(json.loads(objects.read_bytes(uri)))
    except (ValidationError, json.JSONDecodeError) as error:
        raise InputError(f"{uri}: not written by this version of uadray; use another --out") from error
