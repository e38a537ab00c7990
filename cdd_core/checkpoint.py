"""Files that are complete or absent, never half, and digits that change with the weights in them."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")  # of each process its own
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def is_recorded(path: Path, content: object) -> bool:
    """Whether a JSON file holds just this: what was made of it need not be made again."""
    return path.is_file() and read_json(path) == content


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` once everything is written."""
    partial, before = (folder.with_name(f"{folder.name}{which}.partial") for which in ("", ".before"))
    if before.is_dir() and not folder.exists():  # it was cut off between the two
        before.replace(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.replace(before)
    partial.replace(folder)
    shutil.rmtree(before, ignore_errors=True)


def fingerprint(folders: Iterable[Path], facts: str = "") -> str:
    """Twelve hexadecimal digits that change with the weights in these folders and with the facts beside them."""
    digest = hashlib.sha256(facts.encode())
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def digest(module: nn.Module) -> str:
    """Twelve hexadecimal digits that change with the weights of a module."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]
