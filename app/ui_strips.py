"""Film strips: every step of every lane as a small picture; where it can be, what is equally noisy in one column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MANY = 12  # steps from which on a strip's tiles are small
MOST_BANDS = 8
WIDE, NARROW = 16, 8  # small tiles side by side, on wide and on narrow screens


@dataclass(frozen=True)
class Bands:
    """Noise levels in as many bands as the shortest strip has steps; a strip's place in them says how noisy it is.

    Attributes:
        reference: timesteps at which the bands begin.
    """

    reference: tuple[int, ...]

    def of(self, times: Sequence[int]) -> tuple[int, ...]:
        """Each step's band."""
        if len(times) == len(self.reference):
            return tuple(range(len(times)))  # another sampler's grid may differ by a little, and means the same
        return tuple(max((j for j, begin in enumerate(self.reference) if begin >= t), default=0) for t in times)

    def places(self, times: Sequence[int], columns: int) -> list[str]:
        """Each step's CSS ``grid-area``: a step for each band fills it, more share it row by row."""
        each, used, found = columns // len(self.reference), Counter(), []
        for band in self.of(times):
            if len(times) == len(self.reference):
                found.append(f"1 / {band * each + 1} / auto / span {each}")
                continue
            row, column = divmod(used[band], each)
            used[band] += 1
            found.append(f"{row + 1} / {band * each + column + 1}")
        return found


def bands_of(times: Mapping[str, Sequence[int]]) -> Bands | None:
    """The bands of a run; None where no strip says how noisy which step of another is: few steps that aren't spread
    evenly are mostly in one band.

    Args:
        times: timesteps of each lane.
    """
    lengths = {len(own) for own in times.values()}
    few = min(lengths, default=0)
    if len(lengths) < 2 or not 1 < few <= MOST_BANDS:
        return None
    shortest = [tuple(own) for own in times.values() if len(own) == few]
    gap = (shortest[0][0] + 1) / few
    even = all(abs(t + 1 - (few - i) * gap) < gap / 2 for own in shortest for i, t in enumerate(own))
    return Bands(shortest[0]) if even else None


def sheet_columns(times: Mapping[str, Sequence[int]], most: int) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Where the steps of each lane stand on a sheet of ``most`` columns at the most, and what is above the columns.

    Where there are no bands, long lanes are spread evenly and all end in the last column, with the result.
    """
    bands = bands_of(times)
    if bands is not None:
        return tuple(f"from t = {t}" for t in bands.reference), {lane: bands.of(own) for lane, own in times.items()}
    lengths = {len(own) for own in times.values()}
    count, alike = min(most, max(lengths)), len(lengths) == 1 and max(lengths) <= most
    heads = [f"step {k + 1}" for k in range(count)] if alike else [""] * (count - 1) + ["result"]
    found = {}
    for lane, own in times.items():
        shown = min(count, len(own))
        found[lane] = tuple(count - shown + i * shown // len(own) for i in range(len(own)))
    return tuple(heads), found


def render_strip(
    key: str, title: str, picture: int, tiles: Sequence[tuple[str, str]], times: Sequence[int], bands: Bands | None
) -> str:
    """One strip.

    Args:
        key, title: of the lane.
        picture: whose steps, counted from 0.
        tiles: of each place, its attributes and what is in it.
        times: timesteps of all places.
        bands: of the run, if it has any.
    """
    size = "many" if len(tiles) > MANY else "some" if len(tiles) > 4 else "few"
    style, places = f"--steps: {len(tiles)}", [""] * len(tiles)
    if bands is not None:
        count = len(bands.reference)
        size = f"{size} cdd-bands"
        style += f"; --wide: {WIDE // count * count}; --narrow: {NARROW // count * count}; --bands: {count}"
        pairs = zip(bands.places(times, WIDE), bands.places(times, NARROW), strict=True)
        places = [f' style="--at: {wide}; --at-narrow: {narrow}"' for wide, narrow in pairs]
    inside = "".join(f"<li{own}{place}>{content}</li>" for (own, content), place in zip(tiles, places, strict=True))
    own = f"strip-{key}" + (f"-{picture + 1}" if picture else "")
    return (
        f'<section class="cdd-strip cdd-{key}" id="{own}" data-lane="{key}" data-picture="{picture}">'
        f'<h3>{title}</h3><ol class="cdd-{size}" style="{style}">{inside}</ol></section>'
    )
