"""The tab "About": what this is, what it can't do, and what it shouldn't be used for."""

from __future__ import annotations

import gradio as gr
from gradio.events import Dependency

from app.schema import EngineError, EngineLike, Family
from app.settings import Settings

ABOUT = """
## What this is

A diffusion model draws a picture by removing noise in many small steps, and every step costs a run of a large network.
Conditional diffusion distillation (CDD) teaches a copy of such a model, together with what makes it follow a depth map,
an instruction or a blurred photo, to arrive in one to eight steps where the original takes fifty. The student's
prediction at one noise level has to agree with its own at the next, and with the true picture. In the paper condition
and few steps are learnt at once, from pairs of condition and picture alone; the pocket family begins as its
originals, which for depth maps and edits lead from one noise level to the next. Nothing else about a model changes:
same inputs, same prompts, same noise.

## What the three lanes show

All three start from the same noise, with the same depth map or picture and the same words.

| lane | what it is |
| --- | --- |
| **Distilled** | the distilled model with the few steps you chose; LCM-LoRA, a public one, where there is none yet |
| **Undistilled**, as many steps | the original, stopped after as few steps: what you would get without distillation |
| **Undistilled**, all its steps | the original with the time it was made for |

Lanes can be hidden, the one with few steps can use DPM-Solver++ or UniPC, or make room for LCM-LoRA where that is at
hand, and up to four pictures can be drawn at once (*More settings*). *Grid* draws many settings into one sheet. The
viewer at the end of a result sets any two pictures against each other; *Play the steps* runs all lanes side by side
again.

The film strips show x̂<sub>0</sub>, the clean picture that a model believes in at every step. Time is that of sampling
on this machine and of decoding the result, without the pictures on the way; an evaluation is one run of the denoising
network. *Depth error* is how far the depth that a small network reads off a result is from your map, 0 to 1: less is
better, and about 0.04 is as good as it gets. *PSNR* compares an enlarged picture with what it was before it was made
small, and an example that was edited with the landscape as it really looks then, in decibels: more is nearer, pixel by
pixel, which blur can be too.

## Why does my result look bad?

- **It ignores the shape of my map.** Near must be bright. If it is the other way round, tick *Near is dark*. The page
  shows the map as the model sees it.
- **It is all one blur.** A depth map is cut to a square, stretched to its nearest and farthest point, and reduced to
  the model's size. Fine detail is lost, and a single speck of very near or very far can flatten everything else.
- **It doesn't draw what I asked for.** The pocket family knows rendered landscapes: times of day, seasons,
  weather, water. It knows no people, animals, houses or brands, and reads about twenty words of the prompt.
- **The edit changes too much, or nothing.** The undistilled lanes can be guided by the picture more or less (presets
  *Undistilled, bolder* and *closer*); the distilled model can't be guided. The pocket editor knows the same few words.
- **It is small.** 128 pixels a side is what the pocket family draws; on the page your browser stretches it. Where
  *Enlarge a picture* is offered, that makes more of it, square by square.
- **It is smaller than what I uploaded.** Every square of an enlarged picture is drawn, so what is large is
  shrunk first (the pocket family begins with 128 pixels a side, on a GPU with 256): give it a small picture, or a crop.
- **One step looks soft.** More steps add detail; four are a good compromise, and eight are hardly better.
- **The distilled one has a flaw the other doesn't.** Try another seed. Distillation costs some variety and, now and
  then, a detail.

## Limits

An adapter runs at every step, so it sets a floor to how fast a step can be. A distilled model knows only the few
noise levels it was trained on. Its pictures are the best guess of a small network that was trained mostly on synthetic
landscapes; they say nothing about real places, and what enlarging adds to a photo was never there.

## Responsible use

Making picture synthesis fast and cheap puts it into everyday tools for photography and art, and just as well into the
hands of those who want to deceive. Don't pass off results as photographs, and don't use them to mislead people or to
imitate someone without their consent. Every picture saved from here carries the settings it was made with, and
says in the way agreed by the press (IPTC's digital source type) that a model drew or changed it; please leave both in.
{mark} {checker} If you train on your own pictures, be sure that you
may, and keep private ones out: a model can give away what it was trained on. This demo keeps uploads and results
for at most a day after they were last in use, on the machine it runs on, and sends them nowhere else; the list of your
runs stays in your browser. The log of the server names no prompts and no pictures.
"""


MARK = (
    "An invisible mark is in the picture itself; it survives JPEG and cutting, not resizing, and "
    "`python -m cdd_core inspect` finds it."
)
NO_MARK = "The invisible mark that this program can put into a picture is switched off here."
CHECKER = "Pictures pass the safety checker of the family {}, and those it objects to are withheld."
NO_CHECKER = "No safety checker looks at the pictures of the family {} here."
SWITCHED_OFF = "The safety checker is switched off here."
LANDSCAPES = "The pocket family has no safety checker: by itself it draws landscapes and nothing else."
UPLOADED = " Pictures that are uploaded to be changed or enlarged are not checked either."


def about(settings: Settings, family: Family | None) -> str:
    """The text, true for this demo; of a family that isn't loaded yet nothing is said."""
    if family is not None and family.checker:
        checker = CHECKER.format(family.name)
    elif family is not None and family.name == "pocket":
        checker = LANDSCAPES + (UPLOADED if len(family.tasks) > 1 else "")
    elif not settings.safety_checker:
        checker = SWITCHED_OFF
    else:
        checker = NO_CHECKER.format(family.name) if family is not None else ""
    return ABOUT.format(mark=MARK if settings.watermark else NO_MARK, checker=checker)


def build_about(engine: EngineLike, settings: Settings, introduced: Dependency) -> None:
    """Lay out the tab; called inside the page.

    Args:
        engine: knows the models.
        settings: of the demo.
        introduced: the event after which they are loaded.
    """
    text = gr.Markdown(about(settings, None), elem_id="about")

    def loaded() -> str:
        try:
            return about(settings, engine.family())
        except EngineError:
            return about(settings, None)  # the other tab says why

    introduced.then(loaded, None, text, show_progress="hidden", api_visibility="private", concurrency_limit=None)
