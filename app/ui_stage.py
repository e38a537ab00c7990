"""The half of the page that shows a run: three lanes, every step of them, as HTML. Pure functions of what is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from app.schema import Lane, LaneKey, RunReport, StepFrame, TaskName
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
PLANNED = (Lane("distilled", "distilled", 4), Lane("same", "undistilled", 4), Lane("full", "undistilled", 50))
MANY = 12  # steps from which on a lane's tiles are small


@dataclass(frozen=True)
class Tile:
    """A picture on the page: where it is served, and the facts of its step."""

    url: str
    frame: StepFrame

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
    """What is known of a run so far; the handler adds to it, :func:`render` draws it."""

    task: TaskName = "depth"
    lanes: tuple[Lane, ...] = PLANNED
    condition: str = ""
    seed: int = 0
    started: bool = False
    tiles: dict[LaneKey, list[Tile]] = field(default_factory=dict)
    report: RunReport | None = None

    def add(self, tile: Tile) -> None:
        """One more step."""
        self.tiles.setdefault(tile.frame.lane.key, []).append(tile)

    def drawn(self, lane: Lane) -> list[Tile]:
        """The steps of a lane so far."""
        return self.tiles.get(lane.key, [])

    @property
    def done(self) -> int:
        """Steps drawn, of all lanes."""
        return sum(len(tiles) for tiles in self.tiles.values())

    @property
    def total(self) -> int:
        """Steps to draw, of all lanes."""
        return sum(lane.steps for lane in self.lanes)

    @property
    def running(self) -> Lane | None:
        """The lane that is being drawn."""
        return next((lane for lane in self.lanes if self.started and len(self.drawn(lane)) < lane.steps), None)


def steps(count: int) -> str:
    """``1 step``, ``4 steps``."""
    return f"{count} step" if count == 1 else f"{count} steps"


def name(lane: Lane) -> str:
    """A lane's headline."""
    return f"{NAMES[lane.key]}, {steps(lane.steps)}"


def seconds(value: float) -> str:
    """A duration, to the digits that mean something."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def render(stage: Stage) -> str:
    """The depth map and the lanes' pictures side by side, what came out, and a film strip for each lane."""
    cards = "".join([_map_card(stage), *(_lane_card(stage, lane) for lane in stage.lanes)])
    strips = "".join(_strip(stage, lane) for lane in stage.lanes) if stage.started else ""
    below = "<h2 class='cdd-heading'>Predicted clean image x̂<sub>0</sub> at every step</h2>"
    if not stage.started:
        below = f'<p class="cdd-preface">{PREFACE}</p>'
    return f'<div class="cdd-cards">{cards}</div>{_verdict(stage)}{below}{strips}'


def _map_card(stage: Stage) -> str:
    words = WORDS[stage.task]
    if not stage.condition:
        return _card("map", words.seen, "", f"<p>{words.unseen}</p>")
    inside = f'<img src="{stage.condition}" alt="{words.seen_alt}">'
    return _card("map", words.seen, f"<span>{words.seen_note}</span>", inside)


def _lane_card(stage: Stage, lane: Lane) -> str:
    tiles = stage.drawn(lane)
    if not tiles:
        title, promise = PROMISES[lane.key]
        return _card(lane.key, name(lane), "", "") if stage.started else _card(lane.key, title, "", f"<p>{promise}</p>")
    last = tiles[-1]
    inside = f'<img src="{last.url}" alt="{name(lane)}: {last.alt}">'
    if len(tiles) < lane.steps:
        return _card(lane.key, name(lane), f"<span>{last.words}</span>", inside)
    frame = last.frame
    evaluations = "1 evaluation" if frame.nfe == 1 else f"{frame.nfe} evaluations"
    facts = f"<b>{seconds(frame.seconds)}</b><span>{1000 * frame.seconds / frame.n:.0f} ms a step, {evaluations}</span>"
    return _card(lane.key, name(lane), facts, inside, last.url)


def _card(key: str, title: str, facts: str, inside: str, download: str = "") -> str:
    link = f'<a href="{download}" download aria-label="Download {title} as PNG">Save PNG</a>' if download else ""
    return (
        f'<figure class="cdd-card cdd-{key}" id="card-{key}"><div class="cdd-picture">{inside}</div>'
        f'<figcaption><h2>{title}</h2><div class="cdd-facts">{facts}{link}</div></figcaption></figure>'
    )


def _verdict(stage: Stage) -> str:
    if stage.report is None:
        return ""
    took = {r.lane.key: f"{steps(r.lane.steps)} in {seconds(r.seconds)}" for r in stage.report.lanes}
    ratio = stage.report.speed_up
    words = f"{ratio:.1f} times faster" if ratio >= 1 else f"{1 / ratio:.1f} times slower"
    return (
        f'<p class="cdd-verdict" id="verdict"><b>{words}</b>'
        f"<span>Distilled: {took['distilled']}. Undistilled: {took['full']}.</span></p>"
    )


def _strip(stage: Stage, lane: Lane) -> str:
    tiles = stage.drawn(lane)
    following = len(tiles) if lane is stage.running else -1
    shown = [_tile(tile) for tile in tiles] + [_slot(i, i == following) for i in range(len(tiles), lane.steps)]
    size = "many" if lane.steps > MANY else "some" if lane.steps > 4 else "few"
    return (
        f'<section class="cdd-strip cdd-{lane.key}" id="strip-{lane.key}"><h3>{name(lane)}</h3>'
        f'<ol class="cdd-{size}" style="--steps: {lane.steps}">{"".join(shown)}</ol></section>'
    )


def _tile(tile: Tile) -> str:
    f = tile.frame
    picture = f'<img src="{tile.url}" alt="{tile.alt}" title="{tile.words}">'
    return f"<li>{picture}<span>{f.i + 1}<i>t = {f.t}</i></span></li>"


def _slot(i: int, following: bool) -> str:
    return f'<li class="cdd-slot{" cdd-next" if following else ""}"><div></div><span>{i + 1}</span></li>'


def render_status(kind: str, words: str, stage: Stage | None = None) -> str:
    """One line on what is going on, with a bar while a run goes on.

    Args:
        kind: idle, busy, done or error.
        words: plain text.
        stage: the run, for the bar.
    """
    if kind == "error":
        return f'<div class="cdd-status cdd-error" role="alert"><p>{escape(words)}</p></div>'
    bar = ""
    if kind == "busy" and stage is not None and stage.started:
        bar = f'<progress max="{stage.total}" value="{stage.done}" aria-label="steps drawn">{stage.done}</progress>'
    # Screen readers hear of lanes, not of each of fifty steps.
    spoken = name(stage.running) if stage is not None and stage.running else words
    return (
        f'<div class="cdd-status cdd-{kind}"><p aria-hidden="true">{escape(words)}</p>'
        f'<p class="cdd-spoken" role="status">{escape(spoken)}</p>{bar}</div>'
    )
