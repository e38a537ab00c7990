"""Where people's own pictures come from: a folder, a dataset of the Hub, or webdataset shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from cdd_core.data.photos import KINDS
from cdd_core.images import ImageError, open_image

CAPTIONS = "metadata.jsonl"
DIGITS = 12  # of a source's identity


@dataclass(frozen=True)
class Example:
    """A picture and what it shows, in words; no picture where there is none that can be read.

    In a pair, ``before`` is the picture as it was, and the caption asks for the change.
    """

    name: str
    picture: Image.Image | None
    caption: str
    before: Image.Image | None = None


class Source(Protocol):
    """Examples in an order that is the same every time; all of them pairs, or none."""

    paired: bool

    def identity(self, count: int) -> str:
        """Twelve hexadecimal digits that change with which examples the first ``count`` are, as far as is known."""

    def examples(self, skip: int) -> Iterator[Example]:
        """From example number ``skip`` on; all of them, so that their number says how far one came."""


class FolderSource:
    """Pictures below a folder; captions from ``metadata.jsonl`` (``file_name``, ``caption``) or ``NAME.txt``.

    Where lines of ``metadata.jsonl`` say ``before`` and ``instruction`` too, these pairs are the examples.

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: it holds no pictures.
        ValueError: a line of ``metadata.jsonl`` can't be read.
    """

    def __init__(self, root: Path) -> None:
        self.files = sorted(path for path in root.rglob("*") if path.suffix.lower() in KINDS and path.is_file())
        if not self.files:
            raise FileNotFoundError(f"{root} holds no pictures ({', '.join(KINDS)})")
        self.root, self.known, self.digest = root, 0, hashlib.sha256()
        self.captions, self.before = _read_metadata(root)
        self.paired = bool(self.before)
        if self.paired:
            self.files = [root / name for name in sorted(self.before)]

    def __len__(self) -> int:
        return len(self.files)

    def identity(self, count: int) -> str:
        """See :class:`Source`: names of files, wherever the folder lies; quick where ``count`` grows."""
        if count < self.known:
            self.known, self.digest = 0, hashlib.sha256()
        for path in self.files[self.known : count]:
            self.digest.update(path.relative_to(self.root).as_posix().encode(errors="surrogateescape") + b"\n")
        self.known = max(self.known, min(count, len(self.files)))
        return self.digest.hexdigest()[:DIGITS]

    def examples(self, skip: int) -> Iterator[Example]:
        """See :class:`Source`."""
        for path in self.files[skip:]:
            name = path.relative_to(self.root).as_posix()
            words, beside = self.captions.get(name, ""), path.with_suffix(".txt")
            if not self.paired and beside.is_file():  # of a pair, the words are the instruction
                words = beside.read_text(encoding="utf-8", errors="replace").strip()
            before = self.root / self.before[name] if self.paired else None
            yield Example(name, _opened(path), words, _opened(before))


class HubSource:
    """A split of a dataset of the Hub, or of a local copy, read as a stream.

    Args:
        name: ``owner/name`` or a folder.
        split: such as ``train``.
        image, caption: names of its columns.

    Raises:
        ImportError: ``datasets`` is not installed.
        ValueError: no such column.
    """

    paired = False

    def __init__(self, name: str, split: str, image: str, caption: str) -> None:
        from datasets import Image as Picture
        from datasets import load_dataset

        stream = load_dataset(name, split=split, streaming=True)
        if stream.column_names and image not in stream.column_names:
            raise ValueError(f"{name} has no column {image!r}; name one with --image-column: {stream.column_names}")
        if caption and stream.column_names and caption not in stream.column_names:
            raise ValueError(
                f"{name} has no column {caption!r}; name one with --caption-column, or give an empty name if there are "
                f"no captions: {stream.column_names}"
            )
        self.stream = stream.cast_column(image, Picture(decode=False))  # a broken one shall cost itself alone
        self.image, self.caption = image, caption
        self.place = (name, split, image, caption)

    def identity(self, count: int) -> str:
        """See :class:`Source`: name, split and columns; another revision of a dataset is not noticed."""
        return hashlib.sha256("\n".join(self.place).encode()).hexdigest()[:DIGITS]

    def examples(self, skip: int) -> Iterator[Example]:
        """See :class:`Source`."""
        for number, row in enumerate(self.stream.skip(skip), skip):
            held = row[self.image] or {}
            said = row.get(self.caption) or ""
            words = str(said[0] or "") if isinstance(said, list) else str(said)  # several captions: the first one
            yield Example(str(number), _opened(held.get("bytes") or held.get("path")), words)


class ShardSource:
    """Webdataset shards: TAR files of ``KEY.jpg`` (or png, webp) with ``KEY.txt`` or ``KEY.json`` beside it.

    Args:
        shards: paths, in order; one may be a pattern such as ``data-{0000..0009}.tar``.

    Raises:
        ImportError: ``webdataset`` is not installed.
    """

    paired = False

    def __init__(self, shards: list[str]) -> None:
        from braceexpand import braceexpand
        from webdataset import WebDataset

        self.shards = [shard for pattern in shards for shard in braceexpand(pattern)]
        self.stream = WebDataset(self.shards, shardshuffle=False, empty_check=False)

    def identity(self, count: int) -> str:
        """See :class:`Source`: names of all shards, wherever they lie."""
        return hashlib.sha256("\n".join(Path(shard).name for shard in self.shards).encode()).hexdigest()[:DIGITS]

    def examples(self, skip: int) -> Iterator[Example]:
        """See :class:`Source`."""
        for number, row in enumerate(self.stream):
            found = next((row[kind] for kind in ("jpg", "jpeg", "png", "webp") if kind in row), None)
            if number < skip:
                continue
            yield Example(str(row["__key__"]), _opened(found), _told(row).strip())


def open_source(place: str, split: str, image: str, caption: str) -> Source:
    """What a place on the command line means.

    Args:
        place: a folder of pictures, ``hub:owner/name``, or one or more ``.tar`` files separated by commas.
        split, image, caption: of a dataset of the Hub.

    Raises:
        FileNotFoundError: no such folder, or nothing in it.
        ImportError: the library for this kind of place is not installed.
    """
    if place.startswith("hub:"):
        return HubSource(place.removeprefix("hub:"), split, image, caption)
    if place.endswith(".tar"):
        return ShardSource(re.split(r",(?![^{]*})", place))  # commas in braces belong to a pattern
    if not Path(place).is_dir():
        raise FileNotFoundError(f"{place} is no folder; give a folder of pictures, hub:OWNER/NAME or SHARDS.tar")
    return FolderSource(Path(place))


def _read_metadata(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Of each file named in ``metadata.jsonl``: its caption or instruction, and the file it was made of, if any."""
    path, captions, before = root / CAPTIONS, {}, {}
    if not path.is_file():
        return captions, before
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = str(row["file_name"])
            if "before" in row:
                before[name], captions[name] = str(row["before"]), str(row["instruction"])
            else:
                captions[name] = str(row.get("caption") or row.get("text") or "")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}, is not JSON with a file_name, and an instruction if it says before"
            ) from error
    return captions, before


def _told(row: dict[str, object]) -> str:
    """The caption of a webdataset sample; none where it can't be read."""
    if "txt" in row:
        return row["txt"].decode(errors="replace")
    try:
        return str(json.loads(row.get("json", b"{}")).get("caption") or "")
    except (ValueError, AttributeError):
        return ""


def _opened(found: Path | bytes | Image.Image | None) -> Image.Image | None:
    """The picture, or None if it can't be used: one bad file among thousands is no reason to stop."""
    try:
        return None if found is None else open_image(found)
    except ImageError:
        return None
