"""What events do in the browser itself, before anything is sent; components have theirs in ``static``."""

from __future__ import annotations

from pathlib import Path

from app.ui_words import WORDS

STATIC = Path(__file__).with_name("static")
# A run should be seen: from now on the results stand first on a narrow screen; on any they may be scrolled away.
SHOW_RESULTS = """
    document.getElementById("page").dataset.drawn = "";
    document.getElementById("page").dataset.drawing = "yes";
    const results = document.getElementById("results");
    if (window.innerWidth < 900 || results.getBoundingClientRect().top < 0) results.scrollIntoView();
"""
# For a run, see ``Handlers.stopped``.
NAME = "crypto.randomUUID?.() ?? String(Math.random())"
NAME_RUN = f"() => {NAME}"
# Or what is missing, which is told beside its input only. Returns a name for the run. A look that still goes on would
# wipe what is told of the picture; where there is none, it is soon over.
SHOW_RUN = f"""async () => {{
    const at = (place) => document.querySelector(place), lanes = at("#lanes");
    const wordy = {[task for task, words in WORDS.items() if words.no_prompt]};
    const task = at("#task input:checked")?.value;
    const wanting = !at("#depth img") ? at("#depth")
        : wordy.includes(task) && !at("#prompt textarea").value.trim() ? at("#prompt")
        : lanes && !lanes.querySelector("input:checked") ? lanes : null;
    if (wanting) {{
        if (wanting === lanes && !lanes.offsetParent) at("#advanced button").click();
        wanting.scrollIntoView({{ block: "nearest" }});
        const looks = () => wanting.id === "depth" && at("#page").dataset.looking;
        for (let i = 0; i < 60 && looks(); i++) await new Promise((wake) => setTimeout(wake, 50));
    }} else {{ {SHOW_RESULTS} }}
    return {NAME};
}}"""
SHOW_EXAMPLE = f"() => {{ {SHOW_RESULTS} }}"
# What is looked at from now on is the choice after the run; what was asked for before it comes too late.
NOTE_CHOICE = """() => {
    document.getElementById("page").dataset.drawing = "";
    document.getElementById("page").dataset.looking = "yes";
}"""
NOTE_LOOK = "() => { document.getElementById('page').dataset.looking = ''; }"  # it is over
UNLESS_DRAWING = "(task, ...others) => [document.getElementById('page').dataset.drawing ? null : task, ...others]"
# After settings came from elsewhere: results that stand there stay, and so does what is said if they can't be used.
UNLESS_SHOWN = """(task, ...others) => {
    const at = (place) => document.querySelector(place);
    const shown = at("#page").dataset.drawing || at("#stage .cdd-card:not(.cdd-map) img") || !at("#depth img");
    return [shown || at("#status .cdd-error") ? null : task, ...others];
}"""
# Puts label and address of the picture that is shown in place of the last input. The widget's own value would be opened
# first, and a bad picture is no reason to stay with a task.
WITH_PICTURE = """(...known) => {
    const at = (place) => document.querySelector(`#depth ${place}`);
    const kind = at("[data-testid=block-label]")?.textContent.trim() ?? "";
    return [...known.slice(0, -1), `${kind}\\n${at("img")?.src ?? ""}`];
}"""


def stop_notes(place: str) -> tuple[str, str]:
    """Note whether a status says that anything is going on, before that ends; and tell it later, with the run's name.

    Args:
        place: id of the status.
    """
    going_on = f"document.querySelector('#{place} :is(.cdd-busy, .cdd-uncertain, .pending)')"
    noted = f"document.getElementById('{place}').dataset.stopped"
    return f"() => {{ {noted} = {going_on} ? 'stopped' : ''; }}", f"(_, run) => [{noted}, run]"


def script(*names: str) -> str:
    """What a component does in the browser, from ``static``."""
    return "".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in names)
