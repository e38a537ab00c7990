"""What can be saved of a run: animations, a contact sheet, an archive, each made when somebody asks for it."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image

from app.sheets import animation, archive, labelled_sheet, sheet_file

PLACE = "gradio_api/keepsakes"  # below Gradio's own, so that whatever stands before the demo lets it through
KINDS = {"gif": "GIF", "webp": "WebP", "sheet": "Contact sheet", "zip": "All steps (ZIP)"}
SUFFIXES = {"gif": ".gif", "webp": ".webp", "sheet": "-sheet.png", "zip": ".zip"}
RUNS = 200  # that are remembered; each is a list of file names, and the facts of its steps
PATIENCE = 30.0  # seconds that one waits for files made for others
WAITING = 4  # who may; each takes a thread that others need
SHOWN = 8  # columns of a contact sheet at most, the condition aside
GONE = "This run isn't kept any longer; draw it again."
BUSY = "Files are being made for others; try again in a minute."


@dataclass(frozen=True)
class Strip:
    """The steps of one picture of a lane.

    Attributes:
        title: of the lane.
        seed: of the picture.
        files, small: one a step; small ones for animations, of which fifty large frames take minutes to pack, and for
            contact sheets, which get larger than what may be uploaded to bring their settings back.
        columns: of the contact sheet, one a step; of several steps in one column the last is shown.
    """

    title: str
    seed: int
    files: tuple[Path, ...]
    small: tuple[Path, ...]
    columns: tuple[int, ...]


@dataclass
class Run:
    """A finished run, as far as its files need it.

    Attributes:
        strips: all of them.
        condition: file of what the models saw.
        seen: what that is called.
        heads: of the columns.
        notes: what files say, by PNG's keys.
        facts: for the archive.
        stem: how file names begin.
        store: writes a file to where others of the demo lie; returns its path.
        made: files that are there already, by kind.
    """

    strips: tuple[Strip, ...]
    condition: Path
    seen: str
    heads: tuple[str, ...]
    notes: Mapping[str, str]
    facts: Mapping[str, object]
    stem: str
    store: Callable[[bytes, str], str]
    made: dict[str, Path] = field(default_factory=dict)


class Keepsakes:
    """The runs whose files can still be asked for, by names that can't be guessed."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._making = threading.Lock()  # they take processor time that runs need, so never two at once
        self._waiting = threading.BoundedSemaphore(WAITING)

    def keep(self, run: Run) -> dict[str, str]:
        """Remember it; returns the addresses of what can be made of it, relative to the page."""
        token = secrets.token_urlsafe(16)
        self._runs[token] = run
        while len(self._runs) > RUNS:
            self._runs.popitem(last=False)
        return {title: f"{PLACE}/{token}/{kind}" for kind, title in KINDS.items()}

    def file(self, token: str, kind: str) -> Path:
        """The file, made now if it isn't there.

        Raises:
            KeyError: there is no such run any longer, or not such a file.
            TimeoutError: others keep the processor busy.
        """
        run = self._runs.get(token)
        if run is None or kind not in KINDS:
            raise KeyError(GONE)
        if kind in run.made and run.made[kind].is_file():
            return run.made[kind]
        with self._turn():
            try:
                run.made[kind] = Path(run.store(_content(run, kind), run.stem + SUFFIXES[kind]))
                return run.made[kind]
            except FileNotFoundError as error:  # the pictures were swept away
                raise KeyError(GONE) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._waiting.acquire(blocking=False):
            raise TimeoutError(BUSY)
        try:
            if not self._making.acquire(timeout=PATIENCE):
                raise TimeoutError(BUSY)
            try:
                yield
            finally:
                self._making.release()
        finally:
            self._waiting.release()


def _content(run: Run, kind: str) -> bytes:
    if kind == "zip":
        pictures = {path.name: path for strip in run.strips for path in strip.files}
        return archive({f"condition{run.condition.suffix}": run.condition, **pictures}, run.facts)
    if kind == "sheet":
        return sheet_file(_contact_sheet(run), run.notes)
    rows: dict[int, list[Strip]] = {}
    for strip in run.strips:
        rows.setdefault(strip.seed, []).append(strip)
    films = ([[_opened(path) for path in strip.small] for strip in row] for row in rows.values())
    names = [f"seed {seed}" for seed in rows] if len(rows) > 1 else [""]
    titles = [strip.title for strip in next(iter(rows.values()))]
    return animation(films, names, titles, kind.upper(), run.notes)


def _contact_sheet(run: Run) -> Image.Image:
    """A row for each strip."""
    cells: dict[tuple[int, int], Image.Image] = {}
    for row, strip in enumerate(run.strips):
        last = dict(zip(strip.columns, strip.small, strict=True))
        cells |= {(row, 1 + column): _opened(path) for column, path in last.items()}
    condition = _opened(run.condition)
    condition.thumbnail(next(iter(cells.values())).size)
    cells[0, 0] = condition
    names = [f"{strip.title}, seed {strip.seed}" for strip in run.strips]
    return labelled_sheet(names, [run.seen, *run.heads], cells)


def _opened(path: Path) -> Image.Image:
    with Image.open(BytesIO(path.read_bytes())) as picture:
        return picture.convert("RGB")
