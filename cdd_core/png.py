"""Pictures as PNG files that say how they were made, and that a model made them."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

PARAMETERS = "parameters"  # the key that image viewers and Gradio know
XMP = "XML:com.adobe.xmp"  # where PNG keeps what IPTC wants said
SOURCES = {  # IPTC's words for pictures drawn by a model, and for pictures that a model changed
    "drawn": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    "changed": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
}
PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="{}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def notes(parameters: dict[str, object]) -> dict[str, str]:
    """What a picture's file says, by the keys that PNG has for it.

    Args:
        parameters: how a model made the picture.

    Returns:
        The parameters as JSON, see :func:`read_parameters`, and IPTC's digital source type in a packet of XMP.

    Raises:
        TypeError, ValueError: ``parameters`` can't be written as JSON.
    """
    text = json.dumps(parameters, ensure_ascii=False, allow_nan=False)
    source = SOURCES["changed" if parameters.get("task") in ("edit", "upscale") else "drawn"]
    # Half a surrogate pair, which UTF-8 can't hold, becomes the \uXXXX that JSON reads back.
    return {PARAMETERS: text.encode("utf-8", "backslashreplace").decode(), XMP: PACKET.format(source)}


def png_bytes(image: Image.Image, parameters: dict[str, object] | None = None) -> bytes:
    """A picture as the bytes of a PNG.

    Args:
        image: of a mode that PNG knows.
        parameters: how a model made the picture; kept in the file, see :func:`notes`. Without them nothing is said.

    Raises:
        TypeError, ValueError: ``parameters`` can't be written as JSON.
        OSError: the mode isn't known to PNG.
    """
    info = PngInfo()
    for key, text in notes(parameters).items() if parameters is not None else ():
        info.add_itxt(key, text)
    written = BytesIO()
    image.save(written, format="PNG", pnginfo=info)
    return written.getvalue()


def save_png(image: Image.Image, path: Path, parameters: dict[str, object] | None = None) -> None:
    """Write a PNG so that a reader sees the old file or the new one, never a part.

    Args:
        image, parameters: see :func:`png_bytes`, also for what is raised.
        path: where to; folders are made.
    """
    content = png_bytes(image, parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_parameters(image: Image.Image) -> dict[str, object] | None:
    """What :func:`save_png` wrote beside the picture; None if there is nothing, or another program's notes."""
    image.load()  # text may stand behind the pixels
    try:
        content = json.loads(image.info.get(PARAMETERS, ""))
    except (TypeError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def save_disparity_png(disparity: Tensor, path: Path) -> None:
    """Write disparity as a 16-bit greyscale PNG, near bright.

    Args:
        disparity: in [0, 1] (clamped), shape (1, H, W).
        path: where to; folders are made.

    Raises:
        ValueError: another shape.
    """
    if disparity.ndim != 3 or disparity.shape[0] != 1:
        raise ValueError(f"disparity has shape (1, H, W), not {tuple(disparity.shape)}")
    levels = (disparity[0].detach().cpu().double().clamp(0, 1) * 65535).round().numpy().astype(np.uint16)
    save_png(Image.fromarray(levels), path)
