"""A closer look at two pictures of a run: slider, difference, pixels. HTML here, behaviour in ``static/stage.js``."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

VIEWS = {"slider": "Slider", "difference": "Difference, four times", "side": "Side by side"}
ZOOMS = (1, 2, 4, 8)


def render_viewer(pictures: Mapping[str, str], before: bool = False, each: int = 1) -> str:
    """Any two pictures against each other.

    Args:
        pictures: addresses by name, at least one; the last is what went in.
        before: begin with what went in against the first result, and not with the first result against the last lane's.
        each: pictures of a lane, which share their noise with those of the other lanes.
    """
    names, urls = list(pictures), list(pictures.values())
    last = len(names) - 1
    first, second = (last, 0) if before else (0, max(0, last - each))
    if first == second:
        second = last  # a lane alone: against what went in
    view = "".join(f'<option value="{key}">{words}</option>' for key, words in VIEWS.items())
    zoom = "".join(f'<option value="{z}">{z} ×</option>' for z in ZOOMS)
    return (
        '<section class="cdd-viewer" id="viewer" data-view="slider" aria-label="Compare two pictures">'
        '<div class="cdd-bar">'
        f'<label>Left<select data-side="left">{_options(pictures, first)}</select></label>'
        f'<label>Right<select data-side="right">{_options(pictures, second)}</select></label>'
        f"<label>View<select data-view>{view}</select></label>"
        f"<label>Zoom<select data-zoom>{zoom}</select></label></div>"
        '<div class="cdd-frame" tabindex="0" role="group" aria-label="The pictures; arrow keys move what is enlarged">'
        f"{_pane('left', urls[first], names[first])}{_pane('right', urls[second], names[second])}"
        '<i class="cdd-line"></i>'
        '<input type="range" min="0" max="100" value="50" data-split '
        'aria-label="How much of the left picture is shown">'
        "</div></section>"
    )


def _options(pictures: Mapping[str, str], chosen: int) -> str:
    return "".join(
        f'<option value="{url}"{" selected" if k == chosen else ""}>{escape(name)}</option>'
        for k, (name, url) in enumerate(pictures.items())
    )


def _pane(side: str, url: str, name: str) -> str:
    return f'<div class="cdd-pane cdd-{side}"><img src="{url}" alt="{side}: {escape(name)}"></div>'
