"""What every benchmark does with its figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cdd_core.provenance import current_commit


def publish(report: dict[str, object], out: Path | None) -> dict[str, object]:
    """Print a report, with the number of cores and the commit, and write it to ``out`` if there is one.

    Returns the whole of it.
    """
    whole = {"cores": os.cpu_count(), "commit": current_commit(), **report}
    text = json.dumps(whole, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    return whole
