"""What the page offers for each task, and settings that come back from a link, the history or a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import gradio as gr

from app.catalog import Catalog
from app.schema import RIVAL_NAMES, SAMPLERS, TASKS, EngineError, EngineLike, Family, Rival, TaskName
from app.ui_examples import render_examples, render_ideas
from app.ui_files import Files
from app.ui_requests import settings_from
from app.ui_settings import rival_choices
from app.ui_stage import Stage, render, render_status
from app.ui_words import CONTROL, PLAIN, STANDARD, WORDS, idle, no_image, preset, preset_names

RESTORED = "Settings restored. The picture itself isn't kept: choose it again if it isn't here, then press Generate."
UNKNOWN = "These settings are for “{}”, which the models here can't do; nothing was changed."

Updates = dict[str, object]  # by the names of the page's widgets
# Which task is shown, the prompts of those shown before, and the files of the pictures, by the label of their widget.
Memory = tuple[TaskName, Mapping[str, str], Mapping[str, str]]


class Tasks:
    """The callbacks that know which tasks there are; see ``app.ui_handlers.Handlers``.

    Args:
        engine: draws.
        catalog: what is on offer.
        owner: the component in whose name pictures are kept, and after a while deleted.
        most: steps of an undistilled model.
    """

    def __init__(self, engine: EngineLike, catalog: Catalog, owner: gr.HTML, most: int) -> None:
        self.engine, self.catalog, self.files, self.most = engine, catalog, Files(owner), most

    def introduce(self) -> Iterator[tuple[object, ...]]:
        """Name the models, once they are loaded, and offer the tasks they can do."""
        if not self.engine.ready:
            yield '<p class="cdd-family">The models are loading; this takes a few seconds.</p>', *[gr.skip()] * 5
        try:
            family = self.engine.family()
        except EngineError as error:
            yield render_status("error", str(error)), *[gr.skip()] * 5
            return
        trained = f"trained by this repository on {family.trained_on}" if family.trained_on else "public weights"
        why = f", chosen {family.why}" if family.why else ""
        facts = f"{family.name}{why}: {family.size} px, {trained}, running on {family.device.upper()}."
        facts += f" Loaded: {self._loaded(family)}."
        note = f" {family.note}." if family.note else ""
        choices = [(WORDS[task].name, task) for task in family.tasks]
        tasks = gr.update(choices=choices, visible=len(choices) > 1)
        estimate = gr.update(visible=family.estimator)
        others = [(f"{size} px", size) for size in family.sizes if size != family.size]
        sizes = gr.update(choices=[(f"{family.size} px", ""), *others], visible=bool(others))
        image = gr.update(sources=self._sources(TASKS[0]))
        rivals = gr.update(choices=rival_choices(self._rivals(TASKS[0])))
        yield f'<p class="cdd-family">{escape(facts + note)}</p>', tasks, estimate, sizes, image, rivals

    def _loaded(self, family: Family) -> str:
        """Which models there are, for what."""
        alone, groups = len(family.tasks) == 1, {}
        for task in family.tasks:
            others = [rival for rival in family.rivals[task] if rival not in SAMPLERS]
            names = {v: self.catalog.label(family.name, task, v) if alone else v for v in ("distilled", "undistilled")}
            variants = [family.students[task], *others, "undistilled"]
            groups.setdefault(_listed([{**names, **RIVAL_NAMES}[each] for each in variants]), []).append(task)
        if alone:
            return next(iter(groups))
        return "; ".join(
            f"{models} models for {_listed([WORDS[task].name.lower() for task in tasks])}"
            for models, tasks in groups.items()
        )

    def switch(self, task: TaskName, memory: Memory | None = None, prompt: str = "", picture: str = "") -> Updates:
        """The page for another task, with its own standard settings.

        A picture stays where the new task takes pictures too, or comes back with a task that does; and so does what was
        asked for.

        Args:
            task: to show.
            memory: the task that was shown, and what others were given; None on a page that was just opened.
            prompt: of the task that was shown.
            picture: label and, on a second line, address of the picture that was shown with it, if that is known.
        """
        words, controlled, worded = WORDS[task], "control" in WORDS[task].widgets, True
        before, prompts, pictures = memory or (TASKS[0], {}, {})
        prompts = {**prompts, before: prompt}
        kind, _, address = picture.partition("\n")
        if kind in [each.image for each in WORDS.values()]:  # the page knows it even where the memory is lost
            pictures, stays = {**pictures, kind: self.files.behind(address)}, kind == words.image
        else:
            stays = WORDS[before].image == words.image and before != task
        kept = {} if stays else {"value": self.files.kept(pictures.get(words.image))}
        if self.engine.ready:
            controlled, worded = task in self.engine.family().controlled, task not in self.engine.family().wordless

        def widget(name: str, value: object) -> dict:
            return gr.update(value=value, visible=name in words.widgets)

        standard = {key: gr.update(value=value) for key, value in preset(task, STANDARD, self.most).items()}
        return {
            **standard,
            "memory": (task, prompts, pictures),
            "image": gr.update(label=words.image, placeholder=words.image_hint, sources=self._sources(task), **kept),
            "invert": widget("invert", False),
            "degradation": widget("degradation", 0),
            "estimate": gr.update(value=False, visible=self._estimates(task)),
            "lines": widget("lines", False),
            "prompt": gr.update(
                value=prompts.get(task, ""),
                label=words.prompt,
                placeholder=words.prompt_hint,
                visible=worded,
            ),
            "guidance": gr.update(value=PLAIN["guidance"], visible=worded),
            "image_guidance": gr.update(value="", visible="image_guidance" in words.widgets and not controlled),
            "negative": gr.update(value="", visible=worded),
            "rival": gr.update(value=SAMPLERS[0], choices=rival_choices(self._rivals(task))),
            "control": gr.update(value=1, visible=controlled, label=CONTROL.format(words.seen.lower())),
            "size": gr.update(visible=task != "upscale" and self.engine.ready and len(self.engine.family().sizes) > 1),
            "sketch": gr.update(visible="sketch" in words.widgets),
            "preset": gr.update(choices=preset_names(task), value=STANDARD),
            "ideas": render_ideas(task),
            "examples": render_examples(self.catalog, task, self.files.owner.GRADIO_CACHE),
            "status": render_status("idle", self.idle(task)),
            "stage": render(Stage(task)),
        }

    def choose(self, task: TaskName, name: str) -> Updates:
        """The values of a preset of the task that the page shows; nothing if it isn't one, for calls can be forged."""
        if task not in tuple(WORDS) or name not in preset_names(task):
            return {}
        return {key: gr.update(value=value) for key, value in preset(task, name, self.most).items()}

    def _estimates(self, task: TaskName) -> bool:
        """Photos can be taken for depth maps."""
        return task == "depth" and self.engine.ready and self.engine.family().estimator

    def _rivals(self, task: TaskName) -> Sequence[Rival]:
        """What may stand beside the distilled model."""
        return self.engine.family().rivals.get(task, SAMPLERS) if self.engine.ready else SAMPLERS

    def _sources(self, task: TaskName) -> list[str]:
        """How a picture can come in; a webcam shows no depth, unless it can be estimated."""
        return [*WORDS[task].sources, *(["webcam"] if self._estimates(task) else [])]

    def restore(
        self,
        found: Mapping[str, object],
        current: TaskName,
        memory: Memory | None = None,
        prompt: str = "",
        picture: str = "",
    ) -> Updates:
        """Widgets as a link, the history or a PNG has them; what those don't say stays as it is.

        Args:
            found: settings, or something else that pretends to be.
            current: the task that the page shows; picture and results stay if the settings are for it too.
            memory, prompt, picture: see :meth:`switch`.
        """
        settings = settings_from(found)
        if not settings:
            return {}
        task, updates = settings.get("task", current), {}
        try:
            family = self.engine.family()
            if task != current and task not in family.tasks:
                raise EngineError(UNKNOWN.format(WORDS[task].name))
        except EngineError as error:
            return {"status": render_status("error", str(error))}
        if "undistilled_steps" in settings:
            settings["undistilled_steps"] = min(self.most, settings["undistilled_steps"])
        if "size" in settings and (settings["size"] == family.size or settings["size"] not in family.sizes):
            settings["size"] = None
        if settings.get("rival") not in (None, *family.rivals.get(task, SAMPLERS)):
            settings["rival"] = SAMPLERS[0]
        if task != current:
            updates = self.switch(task, memory or (current, {}, {}), prompt, picture)
        for key, value in settings.items():
            updates[key] = {**updates.get(key, gr.update()), "value": "" if value is None else value}
        seed = settings.get("seed")
        updates["randomise"] = gr.update(value=not isinstance(seed, int))
        updates["preset"] = {**updates.get("preset", gr.update()), "value": None}
        return updates | {"status": render_status("idle", RESTORED)}

    def remember(
        self,
        event: gr.EventData,
        current: TaskName = TASKS[0],
        memory: Memory | None = None,
        prompt: str = "",
        picture: str = "",
    ) -> Updates:
        """A run of the visitor's history."""
        found = told_by(event, "settings")
        return self.restore(found, current, memory, prompt, picture) if isinstance(found, Mapping) else {}

    def follow(self, request: gr.Request) -> Updates:
        """A link's settings, for a page that was just opened."""
        try:
            found = json.loads(request.query_params.get("settings", "{}"))
        except (ValueError, RecursionError):
            found = None
        return self.restore(found, TASKS[0]) if isinstance(found, Mapping) else {}

    def reload(
        self,
        file: str,
        current: TaskName = TASKS[0],
        memory: Memory | None = None,
        prompt: str = "",
        picture: str = "",
    ) -> Updates:
        """The settings inside a PNG that was saved from here."""
        try:
            return self.restore(self.engine.remembered(file), current, memory, prompt, picture)
        except EngineError as error:
            gr.Warning(str(error), duration=6)  # the button is far from the line that says so, too
            return {"status": render_status("error", str(error))}

    def idle(self, task: TaskName) -> str:
        """What to do first, in words."""
        return idle(task, self.catalog.offers(task))

    def no_image(self, task: TaskName) -> str:
        """That there is no picture, in words."""
        return no_image(task, self.catalog.offers(task))


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def told_by(event: gr.EventData, name: str) -> object:
    """What came with an event, which may have been forged without any."""
    try:
        return getattr(event, name)
    except (AttributeError, TypeError):
        return None
