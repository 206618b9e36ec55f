"""Provenance of a result: the resolved configuration, the commit, fingerprints of data, lines of metrics."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def commit() -> str | None:
    """Return the commit of the checkout that this code runs from; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def fingerprint(parts: Iterable[str]) -> str:
    """Return sixteen hex digits that depend on the parts and their order (SHA-256).

    >>> fingerprint(["a", "b"]) == fingerprint(["a", "b"]) != fingerprint(["ab"])
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def dump_config(config: BaseModel) -> str:
    """Return a configuration as YAML, with every default written out."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def json_line(values: dict[str, Any]) -> str:
    """Return one line of metrics.jsonl."""
    return json.dumps(values, sort_keys=True)


def now_iso() -> str:
    """The time in UTC, as `2026-11-26T09:30:15.250Z`: as a text it sorts as it does as a time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
