"""What every benchmark does with its figures."""

from __future__ import annotations

import json
from pathlib import Path


def publish(report: dict[str, object], out: Path | None) -> dict[str, object]:
    """Print a report, and write it to ``out`` if there is one; returns it."""
    text = json.dumps(report, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    return report
