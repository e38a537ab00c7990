"""The numbers of a run, and those that few visitors need."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from app.schema import (
    LANES,
    MAX_CONTROL,
    MAX_DISTILLED_STEPS,
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SEED,
    RIVAL_NAMES,
    SAMPLERS,
    Rival,
    unguided,
)
from app.settings import Settings
from app.ui_words import CONTROL, PLAIN

OWN_SIZE = ("the model's own", "")  # a value, so that callers of the API may leave it out
BAKED = "Not in use: distilled models, the only ones chosen, are never guided"
INFO = {
    "guidance": f"0 to {MAX_GUIDANCE:g}; the distilled model is never guided",
    "image_guidance": "How near to stay to the picture; of undistilled models too",
    "negative": "What to lead away from; needs a text guidance above 1",
}


def guided(lanes: list[str], rival: str) -> list[dict]:
    """What guides undistilled models, greyed with the reason where none of them is chosen."""
    alone = unguided(lanes, rival)
    return [gr.update(interactive=not alone, info=BAKED if alone else words) for words in INFO.values()]


def rival_choices(rivals: Sequence[Rival]) -> list[tuple[str, str]]:
    """Names of rivals, with what they stand for."""
    return [(RIVAL_NAMES[rival], rival) for rival in rivals]


def build_numbers(settings: Settings) -> dict[str, gr.components.Component]:
    """How many steps, and which noise."""
    few, many, most = PLAIN["distilled_steps"], PLAIN["undistilled_steps"], settings.max_steps
    distilled = gr.Slider(1, MAX_DISTILLED_STEPS, few, step=1, label="Distilled steps", elem_id="distilled-steps")
    undistilled = gr.Slider(1, most, min(many, most), step=1, label="Undistilled steps", elem_id="undistilled-steps")
    with gr.Row(elem_id="seeds"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
        randomise = gr.Checkbox(True, label="Randomise", elem_id="randomise")
    return {
        "seed": seed,
        "randomise": randomise,
        "distilled_steps": distilled,
        "undistilled_steps": undistilled,
    }


def build_advanced() -> dict[str, gr.components.Component]:
    """Which lanes, how many pictures, and how strongly prompt and picture act."""
    with gr.Accordion("More settings", open=False, elem_id="advanced"):
        names = ("Distilled", "Undistilled or a rival, as few steps", "Undistilled, all its steps")
        lanes = gr.CheckboxGroup(
            list(zip(names, LANES, strict=True)), value=list(LANES), label="Lanes", elem_id="lanes"
        )
        rival = gr.Dropdown(
            rival_choices(SAMPLERS),
            value=SAMPLERS[0],
            label="In the second lane, with few steps",
            elem_id="rival",
        )
        pictures = gr.Slider(
            1, MAX_PICTURES, 1, step=1, label="Pictures", info="Each from the next seed", elem_id="pictures"
        )
        # Text, because a number's widget can't be empty, and empty has a meaning here.
        guidance = gr.Textbox(
            "",
            label="Text guidance, undistilled",
            info=INFO["guidance"],
            placeholder="the model's own",
            max_length=8,
            elem_id="guidance",
        )
        image_guidance = gr.Textbox(
            "",
            label="Image guidance, undistilled",
            info=INFO["image_guidance"],
            placeholder="the model's own",
            max_length=8,
            visible=False,
            elem_id="image-guidance",
        )
        negative = gr.Textbox(
            "",
            label="Negative prompt, undistilled",
            info=INFO["negative"],
            max_length=MAX_PROMPT,
            elem_id="negative",
        )
        control = gr.Slider(0, MAX_CONTROL, 1, step=0.05, label=CONTROL.format("depth map"), elem_id="control")
        preview = gr.Radio(
            [("Full", "full"), ("Rough, faster", "fast")],
            value="full",
            label="Pictures on the way",
            elem_id="preview",
        )
    size = gr.Dropdown([OWN_SIZE], value=OWN_SIZE[1], label="Size", visible=False, elem_id="size")
    return {
        "lanes": lanes,
        "rival": rival,
        "pictures": pictures,
        "guidance": guidance,
        "image_guidance": image_guidance,
        "negative": negative,
        "control": control,
        "preview": preview,
        "size": size,
    }
