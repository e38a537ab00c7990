"""The invisible mark: found after JPEG and cutting, absent elsewhere, too weak to be seen."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdd_core.__main__ import main
from cdd_core.data.terra.render import Terra
from cdd_core.images import to_pil
from cdd_core.png import save_png
from cdd_core.watermark import CERTAIN, certainty, mark


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    world, some = Terra(0, 128), [3, 4, 5, 6]
    return [to_pil(image) for image in world.render(world.scenes(some), world.attributes(some)).image]


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    written = BytesIO()
    image.save(written, "JPEG", quality=quality)
    return Image.open(written)


def test_the_mark_is_found_where_it_is_and_nowhere_else(pictures: list[Image.Image]):
    for picture in pictures:
        assert certainty(picture) < CERTAIN < certainty(mark(picture))


def test_the_mark_survives_jpeg_cutting_brightness_and_noise(pictures: list[Image.Image]):
    rng = np.random.default_rng(0)
    for picture in pictures:
        marked = mark(picture)
        assert certainty(as_jpeg(marked, 85)) > CERTAIN
        assert certainty(marked.crop((9, 5, 128, 120))) > CERTAIN
        assert certainty(marked.point(lambda level: round(0.8 * level) + 20)) > CERTAIN
        noisy = np.asarray(marked) + rng.normal(0, 1, (128, 128, 3))
        assert certainty(Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))) > CERTAIN


def test_the_mark_cannot_be_seen(pictures: list[Image.Image]):
    for picture in pictures:
        difference = np.asarray(mark(picture), dtype=np.float64) - np.asarray(picture)
        assert np.square(difference).mean() < 255**2 / 10**4.5, "45 dB"
        assert np.abs(difference).max() <= 5
    sky = Image.linear_gradient("L").resize((128, 128)).point(lambda level: level // 4 + 90).convert("RGB")
    assert np.abs(np.asarray(mark(sky), dtype=int) - np.asarray(sky)).max() <= 2, "a sky shows every grain"


@pytest.mark.parametrize("size", [(16, 16), (31, 64), (100, 37), (512, 300)])
def test_pictures_of_any_size(size: tuple[int, int]):
    flat = Image.new("RGB", size, (90, 120, 60))
    assert mark(flat).size == size
    assert certainty(flat) < CERTAIN
    assert (certainty(mark(flat)) > CERTAIN) is (min(size) >= 32)


def test_inspect_tells_mark_and_notes(pictures: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture):
    save_png(mark(pictures[0]), tmp_path / "drawn.png", {"prompt": "a hill"})
    save_png(pictures[0], tmp_path / "plain.png")
    assert main(["inspect", "--image", str(tmp_path / "drawn.png")]) == 0
    assert main(["inspect", "--image", str(tmp_path / "plain.png")]) == 0
    drawn, plain = capsys.readouterr().out.split("invisible mark: ")[1:]
    assert drawn.startswith("found")
    assert "a hill" in drawn
    assert plain.startswith("not found")
    assert "notes: none" in plain
