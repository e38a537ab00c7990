"""The half of the page that shows a run: lanes, results, every step, as HTML. Pure functions of what is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from app.schema import RIVAL_NAMES, Lane, LaneKey, RunReport, StepFrame, TaskName, in_words, means
from app.ui_strips import Bands, bands_of, render_strip
from app.ui_viewer import render_viewer
from app.ui_words import WORDS

NAMES: dict[LaneKey, str] = {"distilled": "Distilled", "same": "Undistilled", "full": "Undistilled"}
PROMISES: dict[LaneKey, tuple[str, str]] = {
    "distilled": ("Distilled, few steps", "What distillation makes of it"),
    "same": ("Undistilled, as few steps", "What you would get without distillation"),
    "full": ("Undistilled, all its steps", "What the original draws, given its time"),
}
PREFACE = (
    "Three runs start from the same noise. While they draw, each picture shows the clean image that its model predicts "
    "at that step, and a film strip keeps them all. In the end you can compare what came out, how long it took, and "
    "how often the network had to run."
)
ALIGNED = "Point at a step, tap it or go there by arrow keys, to see what every run had made of the picture by then."
PLANNED = (Lane("distilled", "distilled", 4), Lane("same", "undistilled", 4), Lane("full", "undistilled", 50))
TRUTH = "As it really is"
LARGE = 300  # pixels: of what is larger, cards of the usual width would hide the details
BETTER = {"depth error": " (less is better)", "PSNR": " dB (more is nearer, pixel by pixel)"}


@dataclass(frozen=True)
class Tile:
    """A picture on the page: where it and, if it is large, a smaller version are served, and the facts of its step."""

    url: str
    frame: StepFrame
    small: str = ""

    @property
    def thumbnail(self) -> str:
        """What film strips and animations show."""
        return self.small or self.url

    @property
    def words(self) -> str:
        """Which step it is."""
        return f"step {self.frame.i + 1} of {self.frame.n}, t = {self.frame.t}"

    @property
    def alt(self) -> str:
        """For people who can't see it."""
        return f"predicted clean image at {self.words}"


@dataclass
class Stage:
    """What is known of a run so far; the handler adds to it, :func:`render` draws it.

    Attributes:
        task, lanes, seed: of the run.
        pictures: how many are drawn; picture k has ``seed`` + k.
        condition: address of the depth map or photo as the model sees it.
        given, given_note: address of the picture that is to be enlarged, and how it came to be.
        enlarged: width and height of what a small picture is enlarged to.
        truth: address of what the results should be, where that is known.
        quality: readouts of the condition.
        started: the run has begun.
        times: timesteps of each lane.
        tiles: every step so far, by lane and picture.
        report: what came out.
        settings: what a link, the history or another tab needs to draw it again.
        files: addresses of what can be saved, by what they are called.
    """

    task: TaskName = "depth"
    lanes: tuple[Lane, ...] = PLANNED
    condition: str = ""
    given: str = ""
    given_note: str = ""
    enlarged: tuple[int, int] = (0, 0)
    truth: str = ""
    quality: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    pictures: int = 1
    started: bool = False
    times: Mapping[LaneKey, tuple[int, ...]] = field(default_factory=dict)
    tiles: dict[tuple[LaneKey, int], list[Tile]] = field(default_factory=dict)
    report: RunReport | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, tile: Tile) -> None:
        """One more step."""
        self.tiles.setdefault((tile.frame.lane.key, tile.frame.picture), []).append(tile)

    def drawn(self, lane: Lane, picture: int) -> list[Tile]:
        """The steps of one picture of a lane so far."""
        return self.tiles.get((lane.key, picture), [])

    def results(self, lane: Lane) -> list[Tile]:
        """The latest step of each picture of a lane."""
        return [tiles[-1] for k in range(self.pictures) if (tiles := self.drawn(lane, k))]

    @property
    def done(self) -> int:
        """Steps drawn, of all lanes."""
        return sum(len(tiles) for tiles in self.tiles.values())

    @property
    def total(self) -> int:
        """Steps to draw, of all lanes."""
        return self.pictures * sum(lane.steps for lane in self.lanes)

    @property
    def running(self) -> tuple[Lane, int] | None:
        """The lane and the picture that are being drawn."""
        if not self.started:
            return None
        every = ((lane, k) for k in range(self.pictures) for lane in self.lanes)
        return next(((lane, k) for lane, k in every if len(self.drawn(lane, k)) < lane.steps), None)


def name(lane: Lane) -> str:
    """A lane's headline."""
    solver = f" {RIVAL_NAMES[lane.sampler]}" if lane.sampler not in ("", "ddim") else ""
    return f"{_model(lane)}{solver}, {in_words(lane.steps)}"


def _model(lane: Lane) -> str:
    return RIVAL_NAMES.get(lane.variant, NAMES[lane.key])


def seconds(value: float) -> str:
    """A duration, to the digits that mean something."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def render(stage: Stage) -> str:
    """What went in and what comes out side by side, how long it took, a film strip for each lane, and a closer look."""
    head = _side_by_side([_map_card(stage), *(_lane_card(stage, lane) for lane in stage.lanes)])
    if not stage.started:
        return _around(stage.enlarged, f'{head}<p class="cdd-preface">{PREFACE}</p>')
    bands = bands_of(stage.times)
    strips = "".join(_strip(stage, lane, k, bands) for k in range(stage.pictures) for lane in stage.lanes)
    heading = "<h2 class='cdd-heading'>Predicted clean image x̂<sub>0</sub> at every step</h2>"
    heading += f"<p class='cdd-hint'>{ALIGNED}</p>"
    viewer = ""
    if stage.report is not None:
        choices = _choices(stage)
        changed = stage.task in ("edit", "upscale")
        truth = {TRUTH: stage.truth} if stage.truth else {}
        viewer = render_viewer({**choices, **truth, WORDS[stage.task].seen: stage.condition}, changed, stage.pictures)
    return _around(stage.enlarged, f"{head}{_verdict(stage)}{heading}{strips}{viewer}")


def _choices(stage: Stage) -> dict[str, str]:
    """Every result's address by a name of its own: two lanes may have as many steps, and each lane several pictures."""
    found: dict[str, str] = {}
    for lane in stage.lanes:
        twin = lane.key == "full" and any(name(lane) == name(other) for other in stage.lanes if other is not lane)
        own = f"{name(lane)} (all its steps)" if twin else name(lane)
        for tile in stage.results(lane):
            found[own if stage.pictures == 1 else f"{own}, seed {tile.frame.seed}"] = tile.url
    return found


def render_stored(
    task: TaskName, given: str, results: list[tuple[Lane, str, int]], enlarged: tuple[int, int] = (0, 0)
) -> str:
    """What the shipped models once made of an example, until something is drawn.

    Args:
        task: of the example.
        given: address of its file, which needs no model to be shown.
        results: lane, address of its picture, network evaluations.
        enlarged: see :class:`Stage`.
    """
    what = WORDS[task].image
    cards = [_card("map", what, "", f'<img src="{given}" alt="{what} of the example">')]
    for lane, url, nfe in results:
        inside = f'<img src="{url}" alt="{name(lane)}: stored result">'
        cards.append(_card(lane.key, name(lane), f"<span>stored result, {nfe} evaluations</span>", inside))
    return _around(enlarged, f'{_side_by_side(cards)}<p class="cdd-preface">{PREFACE}</p>')


def _around(enlarged: tuple[int, int], inside: str) -> str:
    """Of what is large, cards are wide, and in its shape if that is broad."""
    width, height = enlarged
    if max(enlarged) <= LARGE:
        return f'<div class="cdd-stage">{inside}</div>'
    return f'<div class="cdd-stage cdd-large" style="--shape: {max(1, width / height):.4g}">{inside}</div>'


def _side_by_side(cards: list[str]) -> str:
    return f'<div class="cdd-cards" style="--cards: {len(cards)}">{"".join(cards)}</div>'


def _given(stage: Stage) -> str:
    """The small picture below its plain enlargement, a quarter as wide as that, where there is one."""
    if not stage.given:
        return ""
    picture = f'<img src="{stage.given}" alt="the small picture that is enlarged">'
    return f'<div class="cdd-given" id="given">{picture}<span><b>Small picture</b><br>{stage.given_note}</span></div>'


def made_small(uploaded: tuple[int, int] | None, given: tuple[int, int] | None, damaged: bool = False) -> str:
    """What became of an upload before it is enlarged; empty if nothing did, or nobody knows. As width and height."""
    if uploaded is None or given is None or uploaded == given:
        return ""
    before, after = (f"{width} × {height}" for width, height in (uploaded, given))
    shape = (uploaded[0] * given[1]) / (uploaded[1] * given[0])
    ends = "" if 0.9 < shape < 1.1 else ", its ends cut off"
    return f"your {before} pixels, first made {after}{' and damaged' if damaged else ''}{ends}"


def _map_card(stage: Stage) -> str:
    words = WORDS[stage.task]
    if not stage.condition:
        return _card("map", words.seen, "", f"<p>{words.unseen}</p>")
    inside = f'<img src="{stage.condition}" alt="{words.seen_alt}">'
    facts = f"<span>{words.seen_note}{_told(stage.quality)}</span>"
    return _card("map", words.seen, facts, inside, below=_given(stage))


def _lane_card(stage: Stage, lane: Lane) -> str:
    tiles = stage.results(lane)
    if not tiles:
        title, promise = PROMISES[lane.key]
        return _card(lane.key, name(lane), "", "") if stage.started else _card(lane.key, title, "", f"<p>{promise}</p>")
    inside = "".join(
        f'<img src="{tile.url}" alt="{name(lane)}: {tile.alt}" data-picture="{tile.frame.picture}">' for tile in tiles
    )
    if stage.pictures > 1:
        inside = f'<div class="cdd-mosaic">{inside}</div>'
    nfe, spent = (sum(getattr(tile.frame, what) for tile in tiles) for what in ("nfe", "seconds"))
    evaluations = "1 evaluation" if nfe == 1 else f"{nfe} evaluations"
    if any(len(stage.drawn(lane, k)) < lane.steps for k in range(stage.pictures)):
        finished, so_far = [tile.url for tile in tiles if tile.frame.i + 1 == tile.frame.n], f"<b>{seconds(spent)}</b>"
        return _card(lane.key, name(lane), f"{so_far}<span>{tiles[-1].words}, {evaluations}</span>", inside, finished)
    found = means([tile.frame for tile in tiles])
    each, several = 1000 * spent / (lane.steps * len(tiles)), f", {len(tiles)} pictures" if len(tiles) > 1 else ""
    facts = f"<b>{seconds(spent)}</b><span>{each:.0f} ms a step, {evaluations}{several}{_told(found)}</span>"
    return _card(lane.key, name(lane), facts, inside, [tile.url for tile in tiles])


def _told(readouts: tuple[tuple[str, float], ...]) -> str:
    return "".join(f"<br>{escape(what)} {value:.3g}{BETTER.get(what, '')}" for what, value in readouts)


def _card(key: str, title: str, facts: str, inside: str, downloads: list[str] | None = None, below: str = "") -> str:
    links = ""
    for number, url in enumerate(downloads or [], 1):
        words = "Save PNG" if number == 1 else str(number)
        which = f"picture {number} of " if len(downloads or []) > 1 else ""
        links += f'<a href="{url}" download aria-label="Download {which}{title} as PNG">{words}</a> '
    return (
        f'<figure class="cdd-card cdd-{key}" id="card-{key}" data-lane="{key}"><div class="cdd-picture">{inside}</div>'
        f'<figcaption><h2>{title}</h2><div class="cdd-facts">{facts}<div class="cdd-links">{links}</div></div>'
        f"{below}</figcaption></figure>"
    )


def _verdict(stage: Stage) -> str:
    """How much faster it was, and what can be done with the results."""
    if stage.report is None:
        return '<div class="cdd-verdict" id="verdict" hidden></div>'  # Gradio updates by place: others keep theirs
    each = "" if stage.pictures == 1 else f" for {stage.pictures} pictures"
    took = {
        r.lane.key: f"{_model(r.lane)}: {in_words(r.lane.steps)} in {seconds(r.seconds)}{each}."
        for r in stage.report.lanes
    }
    ratio, words = stage.report.speed_up, ""
    if ratio is not None:
        words = f"{ratio:.1f} times faster" if ratio >= 1 else f"{1 / ratio:.1f} times slower"
        words = f"<b>{words}</b><span>{took['distilled']} {took['full']}</span>"
    links = "".join(f'<a href="{url}" download>{escape(what)}</a>' for what, url in stage.files.items())
    settings = escape(json.dumps(stage.settings))
    buttons = (
        '<button type="button" data-play>Play the steps</button><button type="button" data-link>Copy link</button>'
    )
    return (
        f'<div class="cdd-verdict" id="verdict" data-settings="{settings}"><p>{words}</p>'
        f'<p class="cdd-actions" id="actions">{buttons}{links}</p>'
        '<p class="cdd-error" id="unsaved" role="alert" hidden></p></div>'
    )


def _strip(stage: Stage, lane: Lane, picture: int, bands: Bands | None) -> str:
    tiles = stage.drawn(lane, picture)
    following = len(tiles) if (lane, picture) == stage.running else -1
    shown = [*map(_tile, tiles), *(_slot(i, i == following) for i in range(len(tiles), lane.steps))]
    title = name(lane) if stage.pictures == 1 else f"{name(lane)}, seed {stage.seed + picture}"
    return render_strip(lane.key, title, picture, shown, stage.times.get(lane.key, ()), bands)


def _tile(tile: Tile) -> tuple[str, str]:
    f = tile.frame
    picture = f'<img src="{tile.thumbnail}" data-whole="{tile.url}" alt="{tile.alt}" title="{tile.words}">'
    # Of each strip one tile is reached by the tabulator key, and the others by arrows from there.
    return f' data-t="{f.t}" tabindex="{-1 if f.i else 0}"', f"{picture}<span>{f.i + 1}<i>t = {f.t}</i></span>"


def _slot(i: int, following: bool) -> tuple[str, str]:
    return f' class="cdd-slot{" cdd-next" if following else ""}"', f"<div></div><span>{i + 1}</span>"


def render_status(kind: str, words: str, stage: Stage | None = None, progress: tuple[int, int] | None = None) -> str:
    """One line on what is going on, with a bar while a run goes on.

    Args:
        kind: idle, busy, done or error.
        words: plain text.
        stage: the run, for the bar.
        progress: how much is done, and of how much; the run's steps if left out.
    """
    if kind == "error":
        return f'<div class="cdd-status cdd-error" role="alert"><p>{escape(words)}</p></div>'
    bar = ""
    if stage is not None and stage.started:
        progress = (stage.done, stage.total)
    if kind == "busy" and progress is not None:
        bar = f'<progress max="{progress[1]}" value="{progress[0]}" aria-label="drawn so far">{progress[0]}</progress>'
    # Screen readers hear of lanes, not of each of fifty steps.
    spoken = name(stage.running[0]) if stage is not None and stage.running else words
    return (
        f'<div class="cdd-status cdd-{kind}"><p aria-hidden="true">{escape(words)}</p>'
        f'<p class="cdd-spoken">{escape(spoken)}</p>{bar}</div>'
    )
