"""Photographs for training: a fixed share is kept apart, and the squares cut from them are theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdd_core.data import photos
from cdd_core.data.photos import Crops, cut_crops, photographs
from cdd_core.data.small import kept_shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty flat pictures, each of its own grey; a text among them, and one that is too small."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    for k in range(40):
        Image.new("RGB", (90 + k, 70), (5 * k + 20,) * 3).save(folder / ("deeper" if k % 2 else ".") / f"{k}.png")
    Image.new("RGB", (20, 20), "red").save(folder / "small.jpg")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


def test_training_and_evaluation_share_no_photograph(folder: Path):
    training, held_out = set(photographs(folder, False)), set(photographs(folder, True))
    assert not training & held_out
    assert len(training | held_out) == 42
    assert 4 <= len(held_out) <= 18


def test_several_processes_cut_what_one_does(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = cut_crops(folder, tmp_path / "alone", 60, 32)
    monkeypatch.setattr(photos, "WORTH_PROCESSES", 1)
    together = cut_crops(folder, tmp_path / "together", 60, 32)
    assert np.array_equal(alone.image, together.image)
    assert alone.identity == together.identity


def test_a_cut_that_breaks_off_is_made_anew(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also if what was there before is asked for again; whoever reads that meanwhile keeps it."""
    before = cut_crops(folder, tmp_path, 60, 32)
    known = np.array(before.image)
    with monkeypatch.context() as patch:
        patch.setattr(photos, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cut_crops(folder, tmp_path, 120, 32)
    assert np.array_equal(before.image, known)
    assert np.array_equal(cut_crops(folder, tmp_path, 60, 32).image, known)
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(ValueError, match="at the least"):
        cut_crops(folder, tmp_path, 0, 32)


@pytest.mark.parametrize("held_out", [False, True])
def test_squares_come_from_their_photographs(folder: Path, tmp_path: Path, held_out: bool):
    greys = [5 * int(p.stem) + 20 for p in photographs(folder, held_out) if p.stem.isdigit()]
    crops = cut_crops(folder, tmp_path, 400, 32, held_out)
    assert crops.image.shape[1:] == (3, 32, 32)
    assert np.all(crops.image == crops.image[..., :1, :1]), "each square from one photograph"
    each = crops.image[..., 0, 0].reshape(-1, crops.each, 3)
    assert sorted(each.max((1, 2))) == sorted(greys), "all of them, and none of the others"
    images = crops.images(np.arange(3))
    assert images.shape == (3, 3, 32, 32)
    assert -1 <= images.min() <= images.max() <= 1


def test_half_of_what_is_trained_on_has_other_colours(tmp_path: Path):
    """And nothing of what is evaluated on; none gets brighter, so that nothing is cut off."""
    (tmp_path / "photos").mkdir()
    for k in range(40):
        Image.new("RGB", (64, 64), (250, 120, 40)).save(tmp_path / "photos" / f"{k}.png")
    held_out, shown = (cut_crops(tmp_path / "photos", tmp_path / str(k), 600, 32, bool(k)).image for k in (1, 0))
    assert np.all(held_out == np.array([250, 120, 40]).reshape(3, 1, 1))
    kept = np.all(shown == np.array([250, 120, 40]).reshape(3, 1, 1), axis=(1, 2, 3))
    assert 0.4 < kept.mean() < 0.6
    assert {int(channel) for channel in shown[:, :, 0, 0].argmax(1)} == {0, 1, 2}
    assert shown.max() == 250
    assert shown.min() >= 24


def test_no_pixel_of_a_camera_is_taken_for_the_truth(tmp_path: Path):
    """What changes from one pixel to the next is gone where a photograph is large; a small one gives what it has."""
    board = np.indices((128, 128)).sum(0) % 2 * 255
    for name, side in (("large", 128), ("small", 40)):
        for k in range(8):
            picture = Image.fromarray(board[:side, :side].astype(np.uint8)).convert("RGB")
            (tmp_path / name).mkdir(exist_ok=True)
            picture.save(tmp_path / name / f"{k}.png")
    large, small = (cut_crops(tmp_path / name, tmp_path / f"{name}-cut", 60, 32).image for name in ("large", "small"))
    assert np.std(large) < 40
    assert len(small) > 0


def test_squares_are_kept_and_the_same(folder: Path, tmp_path: Path):
    first = cut_crops(folder, tmp_path / "a", 60, 32)
    before = (tmp_path / "a" / "crops.npy").stat().st_mtime_ns
    again = cut_crops(folder, tmp_path / "a", 60, 32)
    assert (tmp_path / "a" / "crops.npy").stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.image, cut_crops(folder, tmp_path / "b", 60, 32).image)
    more = cut_crops(folder, tmp_path / "a", 120, 32)
    assert len(more) > len(first), "another wish, another cut"
    assert first.identity == again.identity != more.identity


def test_squares_of_one_photograph_follow_each_other(folder: Path, tmp_path: Path):
    crops = cut_crops(folder, tmp_path, 100, 32, held_out=True)
    greys = crops.image[:, 0, 0, 0].reshape(-1, crops.each)
    assert np.all(greys == greys[:, :1])
    assert len(np.unique(greys[:, 0])) == len(greys)


def test_small_pictures_are_made_anew_for_other_squares(folder: Path, tmp_path: Path):
    crops = cut_crops(folder, tmp_path, 40, 32)
    first = np.array(kept_shown(crops, tmp_path, 0, 0.5, crops.identity).small)
    stamp = (tmp_path / "small.npy").stat().st_mtime_ns
    assert np.array_equal(kept_shown(crops, tmp_path, 0, 0.5, crops.identity).small, first)
    assert (tmp_path / "small.npy").stat().st_mtime_ns == stamp
    others = Crops(255 - np.asarray(crops.image), "others")
    assert not np.array_equal(kept_shown(others, tmp_path, 0, 0.5, others.identity).small, first)


def test_photographs_that_are_all_too_small_are_told(tmp_path: Path):
    for k in range(8):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{k}.png")
    with pytest.raises(FileNotFoundError, match=r"no photograph in .* has 32 pixels a side"):
        cut_crops(tmp_path, tmp_path / "out", 10, 32)


def test_a_folder_without_photographs_is_told(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no photographs"):
        cut_crops(tmp_path, tmp_path / "out", 10, 32)
