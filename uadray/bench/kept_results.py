"""The result of an earlier run of a benchmark, where it is of the same configuration."""

import json
from pathlib import Path
from typing import Any


def kept_result(path: Path, key: str) -> dict[str, Any] | None:
    """A result with figures; None where it is of something else, failed, or was not written to its end."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("key") == key and "figures" in result else None
