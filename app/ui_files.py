"""Files that a run leaves for the visitor, in the folder that Gradio serves and ``app.sweep`` clears."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, unquote

import gradio as gr
from PIL import Image

from app.schema import EngineError, StepFrame

SERVED = "gradio_api/file="  # how addresses of files begin


class Files:
    """Keeps files in the cache of one component, from which Gradio serves them.

    Args:
        owner: the component.
    """

    def __init__(self, owner: gr.HTML) -> None:
        self.owner = owner

    def store(self, content: bytes, name: str) -> str:
        """Write a file, or make it young again if it is there; returns its path."""
        path = (Path(self.owner.GRADIO_CACHE) / hashlib.sha256(content).hexdigest()).resolve() / name
        try:
            os.utime(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
                partial.write(content)
            os.replace(partial.name, path)  # whoever reads it meanwhile sees all or nothing
        return str(path)

    def keep(self, content: bytes, name: str) -> str:
        """Write a file; returns its address, relative to the page."""
        return SERVED + quote(self.store(content, name))

    def uploaded(self, image: object, missing: str) -> str:
        """The file behind an image widget's raw value, if it came through this page.

        The widgets' own check is passed by, because it would open the file first; without this one, a forged call
        could have any picture of the server drawn on.

        Args:
            image: as sent.
            missing: what to say if there is none.

        Raises:
            EngineError: there is none, it lies elsewhere, or it is gone.
        """
        path = image.get("path") if isinstance(image, Mapping) else None
        if not path or not isinstance(path, str):
            raise EngineError(missing)
        try:
            inside = Path(path).resolve().is_relative_to(Path(self.owner.GRADIO_CACHE).resolve())
        except (ValueError, OSError, RuntimeError):  # letters that no name can have, links in a circle
            inside = False
        if not inside:
            raise EngineError("This file wasn't uploaded here; upload the picture first.")
        try:
            os.utime(path)  # it is in use: the sweep takes others first
        except OSError as error:
            raise EngineError("This picture isn't kept any longer; choose it again.") from error
        return path

    def behind(self, address: str) -> str | None:
        """The file behind a picture that the page shows, by the address that the browser has of it."""
        return self.kept(unquote(address.partition(SERVED)[2]))

    def kept(self, path: str | None) -> str | None:
        """A file that came through this page, if it is still there, and a picture that a widget can show again."""
        try:
            found = self.uploaded({"path": path}, "")
        except EngineError:
            return None
        return found if Path(found).is_file() and not found.endswith(".svg") else None

    def keep_picture(self, picture: Image.Image, name: str) -> str:
        """Likewise a picture, as PNG."""
        written = BytesIO()
        picture.save(written, "PNG")
        return self.keep(written.getvalue(), name)


def file_at(address: str) -> Path:
    """The file that :meth:`Files.keep` wrote."""
    return Path(unquote(address.removeprefix(SERVED)))


def file_name(frame: StepFrame) -> str:
    """What a step's file is called."""
    return f"{frame.lane.key}-{frame.n}-steps-seed-{frame.seed}-step-{frame.i + 1:02d}.png"
