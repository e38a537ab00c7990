"""What a caller of the API is told of steps and runs, and its types."""

from __future__ import annotations

from typing import get_type_hints

import gradio as gr
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes no other below Python 3.12

from app.schema import SETTINGS, CompareRequest, LaneKey, LaneReport, RunReport, StepFrame, settings_of


class StepFacts(TypedDict):
    """One step; its picture comes with it."""

    lane: LaneKey
    variant: str
    picture: int
    seed: int
    step: int
    of: int
    t: int
    nfe: int
    seconds: float


class LaneFacts(TypedDict):
    """A finished lane."""

    variant: str
    sampler: str
    steps: int
    timesteps: list[int]
    seconds: float
    ms_per_step: float
    nfe: int
    quality: dict[str, float]


class OutcomeFacts(TypedDict):
    """What a finished run says beside its settings."""

    family: str
    speed_up: float | None
    lanes: dict[LaneKey, LaneFacts]


def step_facts(frame: StepFrame) -> StepFacts:
    """One step, for an API caller."""
    return {
        "lane": frame.lane.key,
        "variant": frame.lane.variant,
        "picture": frame.picture,
        "seed": frame.seed,
        "step": frame.i + 1,
        "of": frame.n,
        "t": frame.t,
        "nfe": frame.nfe,
        "seconds": frame.seconds,
    }


def report_facts(report: RunReport) -> dict[str, object]:
    """A whole run, for an API caller and for the archive: its settings, and :class:`OutcomeFacts`."""

    def facts(lane: LaneReport) -> LaneFacts:
        return {
            "variant": lane.lane.variant,
            "sampler": lane.lane.sampler,
            "steps": lane.lane.steps,
            "timesteps": list(lane.timesteps),
            "seconds": lane.seconds,
            "ms_per_step": lane.ms_per_step,
            "nfe": lane.nfe,
            "quality": dict(lane.quality),
        }

    outcome: OutcomeFacts = {
        "family": report.family,
        "speed_up": report.speed_up,
        "lanes": {lane.lane.key: facts(lane) for lane in report.lanes},
    }
    return {**settings_of(report.request), **outcome}


def run_type() -> type:
    """The type of what :func:`report_facts` returns."""
    settings = {name: hint for name, hint in get_type_hints(CompareRequest).items() if name in SETTINGS}
    return TypedDict("RunFacts", {**settings, **get_type_hints(OutcomeFacts)})


def build_facts() -> gr.JSON:
    """Facts of a step, at last those of the run, in a widget that nobody sees; it tells callers their types."""
    widget, schema = gr.JSON(label="Facts", visible=False), TypeAdapter(StepFacts | run_type()).json_schema()
    widget.api_info = lambda: schema  # of a class of its own Gradio would write a file beside this one
    return widget
