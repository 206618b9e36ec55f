"""What a run leaves behind: its resolved configuration, the commit, the data's fingerprint, its metrics."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def commit() -> str | None:
    """The commit of the checkout this code runs from; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def fingerprint(parts: Iterable[str]) -> str:
    """Sixteen hex digits over `parts`, in order.

    >>> fingerprint(["a", "b"]) == fingerprint(["a", "b"]) != fingerprint(["ab"])
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def dump_config(config: BaseModel) -> str:
    """A configuration as YAML, every default written out."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def json_line(values: dict[str, Any]) -> str:
    """One line of metrics.jsonl."""
    return json.dumps(values, sort_keys=True)
