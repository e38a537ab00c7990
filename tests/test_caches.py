"""What is made once and read ever after: cut off, it goes on; made of something else, it is made anew."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import PowerCutError

from cdd_core.checkpoint import read_json, written_whole
from cdd_core.data import latents, small
from cdd_core.data.latents import cache_instructions
from cdd_core.data.photos import Crops
from cdd_core.data.small import cache_shown
from cdd_core.data.terra.render import Terra
from cdd_core.models import Components


def pictures(count: int, seed: int = 0) -> Crops:
    return Crops(np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))


def shown(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "small.npy"), np.load(folder / "shown.npy")


def test_degradations_cut_off_go_on_and_are_the_same(components: Components, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(small, "BATCH", 2)
    monkeypatch.setattr(small, "SAVE_EVERY", 1)
    cache_shown(pictures(7), components.vae, tmp_path / "whole", 3)
    original, drawn = small.encode, []

    def mortal(vae: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        drawn.append(len(images))
        if len(drawn) == 3:
            raise PowerCutError
        return original(vae, images)

    monkeypatch.setattr(small, "encode", mortal)
    with pytest.raises(PowerCutError):
        cache_shown(pictures(7), components.vae, tmp_path / "cut", 3)
    assert read_json(tmp_path / "cut" / "shown.json")["rows"] == 4
    cache_shown(pictures(7), components.vae, tmp_path / "cut", 3)
    assert drawn == [2, 2, 2, 2, 1], "the batch that was lost, and what was left"
    for whole, cut in zip(shown(tmp_path / "whole"), shown(tmp_path / "cut"), strict=True):
        assert np.array_equal(whole, cut)
    drawn.clear()
    cache_shown(pictures(7), components.vae, tmp_path / "cut", 3)
    assert drawn == []
    drawn.extend([0, 0, 0])
    cache_shown(pictures(7, 1), components.vae, tmp_path / "cut", 3, which="others")
    assert sum(drawn) == 7
    drawn[:] = [0, 0]
    with pytest.raises(PowerCutError):
        cache_shown(pictures(7, 2), components.vae, tmp_path / "cut", 3, which="more")
    drawn.extend([0, 0, 0])
    cache_shown(pictures(7, 1), components.vae, tmp_path / "cut", 3, which="others")
    assert sum(drawn[3:]) == 7, "they were overwritten, and nothing says that they are whole"


def test_a_folder_is_the_old_one_or_the_new_one_wherever_it_is_cut_off(tmp_path: Path, monkeypatch):
    folder, moves, allowed, replace = tmp_path / "export", [], [0], Path.replace

    def write(words: str) -> None:
        with written_whole(folder) as whole:
            (whole / "words").write_text(words)

    def counted(self: Path, target: Path) -> Path:
        if len(moves) == allowed[0]:
            raise PowerCutError
        moves.append(self)
        return replace(self, target)

    write("old")
    for allowed[0] in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", counted)
            moves.clear()
            with pytest.raises(PowerCutError):
                write("new")
        assert not folder.exists() or (folder / "words").read_text() == "old"
        with suppress(PowerCutError), written_whole(folder):
            assert (folder / "words").read_text() == "old", "whoever writes next finds it again"
            raise PowerCutError
    write("new")
    assert (folder / "words").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_instructions_in_other_words_are_written_anew(components: Components, tmp_path: Path, monkeypatch):
    world, tokens = Terra(0, 32), components.tokenizer

    def written() -> np.ndarray:
        cache_instructions(4, world, tokens, tmp_path)
        (file,) = tmp_path.glob("tokens-*.npy")
        return np.load(file)

    before = written()
    assert before.shape[0] == 8
    (file,) = tmp_path.glob("tokens-*.npy")
    made = file.stat().st_mtime_ns
    assert np.array_equal(written(), before)
    assert file.stat().st_mtime_ns == made, "they were there"
    monkeypatch.setattr(latents, "INSTRUCTIONS", latents.INSTRUCTIONS + 1)
    assert not np.array_equal(written(), before)
