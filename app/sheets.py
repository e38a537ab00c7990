"""What a run leaves behind as files: labelled sheets, animations, an archive."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

GAP, LETTERS = 6, 14
STRIDE = 32  # pixels: pictures begin a multiple of it apart, so that the invisible marks in them add up
PAPER, INK = "white", "#222222"
XMP = "XML:com.adobe.xmp"  # PNG's key for it
HOLD = 8  # frames for which an animation rests on its result
FRAME = 120  # milliseconds
LARGEST_FRAME = 2**20  # pixels of the pictures in one frame


def labelled_sheet(
    rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[int, int], Image.Image], corner: str = ""
) -> Image.Image:
    """Pictures as a table, with the labels drawn in.

    Args:
        rows, columns: labels.
        cells: pictures by (row, column), of one size; missing ones stay empty.
        corner: what holds for all of them.
    """
    width, height = next(iter(cells.values())).size if cells else (128, 128)
    font = ImageFont.load_default(LETTERS)
    # Never narrower than its label.
    across = _stride(max([width, *(int(font.getlength(label)) for label in columns)]))
    down, top = _stride(height), LETTERS + 2 * GAP
    margin = max((int(font.getlength(label)) for label in (*rows, corner)), default=0) + 2 * GAP
    sheet = Image.new("RGB", (margin + len(columns) * across, top + len(rows) * down), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, top / 2), corner, INK, font, anchor="lm")
    for j, label in enumerate(columns):
        pen.text((margin + j * across + width / 2, top / 2), label, INK, font, anchor="mm")
    for i, label in enumerate(rows):
        pen.text((GAP, top + i * down + height / 2), label, INK, font, anchor="lm")
    for (i, j), picture in cells.items():
        sheet.paste(picture.convert("RGB"), (margin + j * across, top + i * down))
    return sheet


def _stride(size: int) -> int:
    """From one picture to the next, a gap between them."""
    return -(-(size + GAP) // STRIDE) * STRIDE


def sheet_file(sheet: Image.Image, notes: Mapping[str, str]) -> bytes:
    """A sheet as PNG.

    Args:
        sheet: the picture.
        notes: what the file says, by PNG's keys.
    """
    info, written = PngInfo(), BytesIO()
    for key, text in notes.items():
        info.add_itxt(key, text)
    sheet.save(written, "PNG", pnginfo=info)
    return written.getvalue()


def animation(
    films: Iterable[Sequence[Sequence[Image.Image]]],
    rows: Sequence[str],
    columns: Sequence[str],
    file_format: str,
    notes: Mapping[str, str],
) -> bytes:
    """Films as a table, all played in the time of the longest, resting on the results.

    Of large pictures the first rows alone, and no others are asked for: all frames are in memory at once.

    Args:
        films: by row and column, each from the first step to the result; pictures of one size.
        rows, columns: labels.
        file_format: GIF or WEBP.
        notes: what the file says, by PNG's keys; in a GIF all of it is the comment, too.
    """
    following = iter(films)
    first = next(following)
    width, height = first[0][0].size
    films = [first, *islice(following, max(0, LARGEST_FRAME // (width * height * len(columns)) - 1))]
    rows = rows[: len(films)]
    longest = max(len(film) for row in films for film in row)
    frames = [_frame(films, rows, columns, tick, longest) for tick in (*range(longest - 1), longest)]
    written, times = BytesIO(), [FRAME] * (longest - 1) + [FRAME * HOLD]
    if file_format == "WEBP":
        about = Image.Exif()
        about[ExifTags.Base.ImageDescription] = notes.get("parameters", "").encode()
        more = {"lossless": True, "exif": about, "xmp": notes.get(XMP, "").encode()}
    else:
        more = {"disposal": 2, "comment": "\n".join(notes.values()).encode()}
    frames[0].save(written, file_format, save_all=True, append_images=frames[1:], duration=times, loop=0, **more)
    return _with_xmp(written.getvalue(), notes[XMP]) if file_format == "GIF" and XMP in notes else written.getvalue()


def _with_xmp(gif: bytes, packet: str) -> bytes:
    """A GIF with a packet of XMP where readers look for it: XMP specification, part 3, 1.1.2."""
    table = 6 << (gif[10] & 7) if gif[10] & 0x80 else 0  # bytes of the palette for all frames
    after, trailer = 13 + table, bytes([1, *range(255, -1, -1), 0])
    return gif[:after] + b"\x21\xff\x0bXMP DataXMP" + packet.encode() + trailer + gif[after:]


def _frame(
    films: Sequence[Sequence[Sequence[Image.Image]]],
    rows: Sequence[str],
    columns: Sequence[str],
    tick: int,
    longest: int,
) -> Image.Image:
    """What all films show after so many of ``longest`` ticks."""
    cells = {
        (i, j): film[min(tick * len(film) // longest, len(film) - 1)]
        for i, row in enumerate(films)
        for j, film in enumerate(row)
    }
    return labelled_sheet(rows, columns, cells)


def archive(pictures: Mapping[str, Path], facts: Mapping[str, object]) -> bytes:
    """All steps as PNG files and ``trace.json``, in a ZIP.

    Args:
        pictures: files by the names they get; PNG is compressed already.
        facts: of the run.

    Raises:
        FileNotFoundError: one of them is gone.
    """
    written = BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as packed:
        for name, path in pictures.items():
            packed.writestr(name, path.read_bytes())
        packed.writestr("trace.json", json.dumps(facts, indent=2, ensure_ascii=False))
    return written.getvalue()
