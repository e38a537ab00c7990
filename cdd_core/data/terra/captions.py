"""Plain English for a Terra picture and for a change to it, in several phrasings."""

from __future__ import annotations

import re

import numpy as np

from cdd_core.data.terra.attributes import ATTRIBUTES, Attributes

# One place for the vocabulary: every phrase names its value in words a visitor might use.
TIME = {
    "noon": ("at noon", "at midday", "in broad daylight", "in the middle of the day", "under a blue sky", "by day"),
    "sunset": ("at sunset", "at dusk", "in the evening", "in golden evening light", "under an orange sky"),
    "night": ("at night", "at midnight", "under the stars", "in the moonlight", "after dark"),
    "dawn": ("at dawn", "at sunrise", "in the early morning", "at daybreak", "in pale morning light"),
}
SEASON = {
    "summer": ("summer", "green", "lush green", "summery", "grassy"),
    "autumn": ("autumn", "autumnal", "fall", "golden autumn", "rusty autumn"),
    "winter": ("winter", "snowy", "snow-covered", "wintry", "frozen"),
    "desert": ("desert", "arid", "sandy desert", "sandy", "dry desert"),
}
WEATHER = {
    "clear": ("in clear weather", "in clear air", "with a clear view", "without fog", "on a clear day"),
    "fog": ("in fog", "in thick fog", "in the mist", "on a foggy day", "with misty air"),
}
WATER = {
    "dry": ("without water", "on dry land", "with no lake", "without a lake"),
    "lake": ("with a lake", "by a lake", "beside the water", "around a still lake", "with a lake in front"),
}
LANDFORM = {
    "hills": ("hills", "rolling hills"),
    "mountains": ("mountains", "a mountain range"),
    "dunes": ("dunes", "long dunes"),
    "mesas": ("mesas", "a plateau"),
    "terraces": ("terraces", "steps of rock"),
    "islands": ("mounds", "islands"),
    "plains": ("plains", "a wide plain"),
    "boulders": ("boulders", "round rocks"),
    "blocks": ("blocks of rock", "ruins"),
    "canyon": ("a canyon", "a gorge"),
    "cliffs": ("cliffs", "a cliff"),
    "peaks": ("peaks", "a volcano"),
}
OPENINGS = ("", "", "", "a photo of", "a picture of", "a view of", "a painting of", "a beautiful")
PLACES = ("landscape", "scene", "valley", "land", "scenery", "view", "countryside")
# Words people add to prompts; they describe nothing, and the model learns that.
FLOURISHES = ("", "", "", "", "", "highly detailed", "beautiful", "4k", "cinematic", "very nice")


def caption(attributes: Attributes, landform: str, rng: np.random.Generator, keep: float = 0.85) -> str:
    """One way to say what the picture shows; now and then it leaves an attribute out.

    Args:
        attributes: what is true of the picture.
        landform: a key of ``landforms.LANDFORMS``.
        rng: chooses the words.
        keep: probability that a given attribute is mentioned.
    """
    return phrase(attributes, landform, rng, {name: rng.random() < keep for name in ATTRIBUTES})


def phrase(attributes: Attributes, landform: str, rng: np.random.Generator, told: dict[str, bool]) -> str:
    """One way to say some of it.

    Args:
        attributes, landform, rng: see :func:`caption`.
        told: for each attribute whether it is mentioned.
    """
    phrases = {
        "time": str(rng.choice(TIME[attributes.time])) if told["time"] else "",
        "weather": str(rng.choice(WEATHER[attributes.weather])) if told["weather"] else "",
        "water": str(rng.choice(WATER[attributes.water])) if told["water"] else "",
    }
    season = str(rng.choice(SEASON[attributes.season])) if told["season"] else ""
    place = str(rng.choice(LANDFORM[landform])) if rng.random() < 0.4 else str(rng.choice(PLACES))
    article, noun = ("", place)
    if place.startswith("a "):
        article, noun = "a", place[2:]
    elif place in PLACES:
        article = str(rng.choice(("a", "the", "")))
    opening = str(rng.choice(OPENINGS))
    if opening.startswith("a beautiful"):
        article = ""
    order = [phrases[k] for k in rng.permutation(list(phrases))]
    if rng.random() < 0.25 and season:  # terse, as people type: "winter, night, lake"
        words = [season, noun, *order]
        rng.shuffle(words)
        return _articles(", ".join(w for w in words if w))
    head = " ".join(w for w in (opening, article, season, noun) if w)
    tail = [str(rng.choice(FLOURISHES))]
    return _articles(", ".join(w for w in (" ".join(p for p in (head, *order) if p), *tail) if w))


def _articles(text: str) -> str:
    """ "a autumnal" is "an autumnal"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def instruction(before: Attributes, after: Attributes, rng: np.random.Generator) -> str:
    """One way to ask for the change from ``before`` to ``after``.

    Raises:
        ValueError: nothing changes.
    """
    wishes = []
    for name in ATTRIBUTES:
        value = getattr(after, name)
        if getattr(before, name) != value:
            wishes.append(_wish(name, value, rng))
    if not wishes:
        raise ValueError("before and after are the same, so there is nothing to ask for")
    rng.shuffle(wishes)
    return " and ".join(wishes)


WISHES = {
    "lake": ("add a lake", "put a lake in the valley", "flood the valley", "fill it with water"),
    "dry": ("remove the lake", "take the water away", "drain the lake", "make it dry land"),
    "fog": ("add fog", "make it foggy", "let there be mist", "cover it in fog"),
    "clear": ("remove the fog", "clear the mist", "make the air clear", "lift the fog"),
}
PATTERNS = (
    *("make it {}", "turn it into {}", "turn this into {}", "change it to {}", "what if it were {}?", "I want {}"),
    *("{}", "{}, please", "make this {}", "it should be {}"),
)
NOUNS = {
    "noon": ("noon", "midday", "daytime", "day"),
    "sunset": ("sunset", "dusk", "evening"),
    "night": ("night", "midnight"),
    "dawn": ("dawn", "sunrise", "early morning"),
    "summer": ("summer", "green summer"),
    "autumn": ("autumn", "fall"),
    "winter": ("winter", "snowy", "a winter landscape"),
    "desert": ("a desert", "a sandy desert"),
}
# For both at once, as people ask for them; all of it in words that captions and other wishes have.
BOTH = ("turn this into {}", "turn it into {}", "make it {}", "change it to {}", "{}", "{}, please")
# Of all the words in wishes, those that say what is wished for.
INSTRUCTION_WORDS = (
    *("noon", "midday", "daytime", "day", "sunset", "dusk", "evening", "night", "midnight", "dawn", "sunrise"),
    *("morning", "summer", "green", "autumn", "fall", "winter", "snowy", "desert", "sandy", "lake", "flood", "water"),
    *("drain", "dry", "fog", "foggy", "mist", "clear"),
)


def instruction_at_once(after: Attributes, rng: np.random.Generator) -> str:
    """One way to ask for a season and a time of day in one breath: "turn this into a winter night".

    Apart from :func:`instruction`, from whose words the tokenizer and the text encoder were made.
    """
    season, time = (
        str(rng.choice([word for word in words if " " not in word]))
        for words in (SEASON[after.season], NOUNS[after.time])
    )
    return str(rng.choice(BOTH)).format(_articles(f"a {season} {time}"))


def _wish(name: str, value: str, rng: np.random.Generator) -> str:
    if name in ("water", "weather"):
        return str(rng.choice(WISHES[value]))
    return str(rng.choice(PATTERNS)).format(rng.choice(NOUNS[value]))
