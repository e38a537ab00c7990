"""What the page calls things, for each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from app.schema import TaskName

Preset = Mapping[str, object]  # values of widgets by name

STANDARD = "Standard"
EFFORTS: dict[str, Preset] = {
    "Quick": {"distilled_steps": 1, "undistilled_steps": 20},
    STANDARD: {},
    "Thorough": {"distilled_steps": 8},
}
PLAIN: Preset = {  # what presets change, as it is without one
    "distilled_steps": 4,
    "undistilled_steps": 50,
    "guidance": "",  # the models' own
    "image_guidance": "",
    "control": 1,
}
LOOSE: dict[str, Preset] = {"Loosely": {"control": 0.6}}
CONTROL = "How strongly the {} acts"  # a ControlNet's condition


@dataclass(frozen=True)
class Words:
    """Of one task.

    Attributes:
        name: of the task.
        image, image_hint: the upload's label, and what stands in it while it is empty.
        prompt, prompt_hint: likewise; hidden where the models learnt no words.
        idle: what to do first, see :func:`idle`.
        no_image, no_prompt: what is missing, see :func:`no_image`; an empty ``no_prompt`` means that none is needed.
        seen, seen_note, seen_alt: of the tile that shows what the model sees.
        unseen: stands there while there is nothing.
        file: what a file of that tile is called.
        widgets: that only some tasks have, by their names.
        presets: names of what they change, beside :data:`EFFORTS`.
        ideas: for the prompt: words to combine, or whole instructions.
        sources: how a picture can come in.
    """

    name: str
    image: str
    image_hint: str
    prompt: str
    prompt_hint: str
    idle: str
    no_image: str
    no_prompt: str
    seen: str
    seen_note: str
    seen_alt: str
    unseen: str
    file: str
    widgets: tuple[str, ...]
    presets: Mapping[str, Preset] = field(default_factory=dict)
    ideas: tuple[str, ...] = ()
    sources: tuple[str, ...] = ("upload", "clipboard", "webcam")


OUTLINES = Words(
    name="Outlines to image",
    image="Picture",
    image_hint="Drop a picture here\nor click to choose a file\nits outlines are kept",
    prompt="Prompt",
    prompt_hint="a house by a lake, oil painting",
    idle="Upload a picture, say what to draw along its outlines, then press Generate.",
    no_image="Upload a picture first.",
    no_prompt="",
    seen="Outlines",
    seen_note="as the model sees them",
    seen_alt="the outlines of the picture, as the model sees them",
    unseen="The outlines of your picture",
    file="outlines",
    widgets=("lines", "control"),
    presets=LOOSE,
)

WORDS: dict[TaskName, Words] = {
    "depth": Words(
        name="Depth to image",
        image="Depth map",
        image_hint="Drop a depth map here\nor click to choose a file\n8 or 16 bit, any size",
        prompt="Prompt",
        prompt_hint="a snowy valley at sunset, by a lake",
        idle="Upload a depth map, then press Generate.",
        no_image="Upload a depth map first.",
        no_prompt="",
        seen="Depth map",
        seen_note="as the model sees it, near is bright",
        seen_alt="the depth map as the model sees it, near is bright",
        unseen="Your depth map, as the model sees it",
        file="depth-map",
        widgets=("invert", "control", "sketch"),
        presets=LOOSE,
        ideas=(
            "noon",
            "sunset",
            "night",
            "dawn",
            "summer",
            "autumn",
            "winter",
            "desert",
            "clear",
            "fog",
            "with a lake",
        ),
        sources=("upload", "clipboard"),
    ),
    "edit": Words(
        name="Edit a picture",
        image="Picture",
        image_hint="Drop a picture here\nor click to choose a file\nany size; the square in the middle is used",
        prompt="Instruction",
        prompt_hint="make it sunset",
        idle="Upload a picture, say what to change, then press Generate.",
        no_image="Upload a picture first.",
        no_prompt="Say what to change, for instance: make it sunset.",
        seen="Picture",
        seen_note="as the model sees it",
        seen_alt="the picture as the model sees it",
        unseen="Your picture, as the model sees it",
        file="picture",
        widgets=("image_guidance",),
        presets={"Undistilled, bolder": {"image_guidance": "1"}, "Undistilled, closer": {"image_guidance": "2"}},
        ideas=(
            "make it sunset",
            "make it night",
            "turn it into winter",
            "add fog",
            "add a lake",
            "what if it were autumn?",
        ),
    ),
    "upscale": Words(
        name="Enlarge a picture",
        image="Picture",
        image_hint=(
            "Drop a small picture here\nor click to choose a file\nenlarged four times; large ones are shrunk "
            "first, and the page says to what"
        ),
        prompt="What it shows",
        prompt_hint="a portrait, sharp and detailed",
        idle="Upload a small picture, then press Generate.",
        no_image="Upload a picture first.",
        no_prompt="",
        seen="Bicubic enlargement",
        seen_note="what the model is shown",
        seen_alt="the picture, enlarged without a model",
        unseen="Your picture, plainly enlarged",
        file="bicubic",
        widgets=("degradation",),
    ),
    "canny": OUTLINES,
    "softedge": replace(
        OUTLINES,
        name="Soft edges to image",
        image_hint="Drop a picture here\nor click to choose a file\nits edges are kept, loosely",
        idle="Upload a picture, say what to draw along its edges, then press Generate.",
        seen="Soft edges",
        seen_note="by a plain filter; the public model was trained on those that a network finds",
        seen_alt="the edges of the picture, as the model sees them",
        unseen="The edges of your picture",
        file="soft-edges",
    ),
}


def preset_names(task: TaskName) -> list[str]:
    """What can be chosen for a task."""
    return [*EFFORTS, *WORDS[task].presets]


def preset(task: TaskName, chosen: str, most: int) -> Preset:
    """The widgets' values of a preset.

    Args:
        task: of the page.
        chosen: a name.
        most: steps of an undistilled model.
    """
    values = {**PLAIN, **{**EFFORTS, **WORDS[task].presets}[chosen]}
    return {**values, "undistilled_steps": min(most, values["undistilled_steps"])}


def idle(task: TaskName, examples: bool) -> str:
    """What to do first; ``examples``: there are some for the task."""
    words = WORDS[task].idle
    return f"Pick an example, or {words[0].lower()}{words[1:]}" if examples else words


def no_image(task: TaskName, examples: bool) -> str:
    """That the picture is missing, likewise."""
    words = WORDS[task].no_image
    return f"{words.removesuffix('.')}, or pick one of the examples." if examples else words
