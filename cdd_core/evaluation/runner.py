"""``evaluate``: draw for held-out conditions, measure, write tables and sheets; resumes row by row."""

from __future__ import annotations

import time
from dataclasses import asdict
from itertools import product

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from cdd_core.checkpoint import write_json
from cdd_core.config import EvaluateConfig
from cdd_core.data.augment import gaussian_blur
from cdd_core.data.latents import decode, encode
from cdd_core.data.terra.attributes import ATTRIBUTES
from cdd_core.evaluation import metrics
from cdd_core.evaluation.compare import BICUBIC, FIRST, Draws, Line, Spread
from cdd_core.evaluation.imagenet import Imagenet
from cdd_core.evaluation.kept import KeptRows
from cdd_core.evaluation.rows import Row, folder_of
from cdd_core.evaluation.scenes import BATCH, HeldOut, Judge, Measured
from cdd_core.inference import Plan, as_condition, sample_latents
from cdd_core.loading import Model
from cdd_core.speed import HALF

DIVERSE_CONDITIONS, DIVERSE_SEEDS = 24, 8
SHOWN = 64  # pictures on a sheet


def draw_row(model: Model, how: Plan, scenes: HeldOut, rows: np.ndarray, seeds: list[int], precision: str) -> Tensor:
    """Pictures for the conditions of these rows, see :func:`drawn`."""
    condition = as_condition(model, scenes.shown(rows, model.card.condition_gamma))
    return drawn(model, how, condition, [scenes.prompts[row] for row in rows], seeds, precision)


def drawn(model: Model, how: Plan, condition: Tensor, prompts: list[str], seeds: list[int], precision: str) -> Tensor:
    """Finished pictures, (B, 3, S, S) in [0, 1].

    Args:
        model, how, condition, prompts, seeds: see ``inference.sample_latents``.
        precision: of the networks' products; states and pictures stay in single precision.
    """
    with torch.autocast(model.device.type, HALF.get(precision), enabled=precision in HALF):
        for step in sample_latents(model, condition, prompts, seeds, how):
            last = step.x0
    return decode(model.components.vae, last).cpu().contiguous()


class Runner:
    """Measures rows and keeps what it measured in ``cache``, so that a killed run loses a few batches at most."""

    def __init__(
        self, config: EvaluateConfig, models: dict[str, Model], scenes: HeldOut, judges: dict[str, Judge]
    ) -> None:
        self.config, self.models, self.scenes, self.judges = config, models, scenes, judges
        self.batches = np.array_split(np.arange(scenes.count), -(-scenes.count // BATCH))
        self.imagenet = Imagenet(scenes) if config.imagenet else None
        self.draws: dict[str, Draws] = {}  # of every line by each probe, for compare
        self.twins: dict[str, tuple[Tensor, np.ndarray]] = {}  # true renders' points, and their distance resampled

    def measure(self, row: Row) -> dict[str, Measured]:
        """Every probe's measurements of this row; drawn now or read from an earlier run."""
        parts: dict[str, list[Measured]] = {name: [] for name in self.judges}
        for number, rows in enumerate(tqdm(self.batches, desc=row.label, unit="batch")):
            kept = self._batch(row, number, rows)
            for name in self.judges:
                parts[name].append(_unflatten(name, kept))
        return {name: Measured.join(given) for name, given in parts.items()}

    def first_pictures(self, row: Row) -> Tensor:
        """The first 64 pictures of a row in [0, 1], (64, 3, S, S) or fewer; drawn if it was measured elsewhere."""
        wanted = self.batches[: -(-SHOWN // BATCH)]
        found = [self._batch(row, number, rows)["pictures"] for number, rows in enumerate(wanted)]
        return torch.cat(found)[:SHOWN].float() / 255

    def _batch(self, row: Row, number: int, rows: np.ndarray) -> dict[str, Tensor]:
        """What is kept of one batch of a row: the probes' readings, and some pictures."""
        path = folder_of(row, self.config) / f"{number:04d}.safetensors"
        if not path.exists():
            pictures = self._draw(row, rows, [self.config.seed * 1_000_003 + int(r) for r in rows])
            kept = {}
            for name, judge in self.judges.items():
                kept.update(_flatten(name, judge.read(pictures, rows)))
            if number * BATCH < SHOWN or self.config.imagenet:
                kept["pictures"] = (pictures * 255).round().byte()
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_file(kept, partial)
            partial.replace(path)
        return load_file(path)

    def _draw(self, row: Row, rows: np.ndarray, seeds: list[int]) -> Tensor:
        if row.variant == BICUBIC:
            return self.scenes.shown(rows, 1.0)
        model = self.models[row.variant]
        return draw_row(model, row.plan(model), self.scenes, rows, seeds, row.precision)

    def diversity(self, row: Row) -> float:
        """Mean pairwise probe distance over eight seeds of one condition, over up to two dozen conditions."""
        path = folder_of(row, self.config) / "diversity.safetensors"
        if not path.exists():
            probe = next(iter(self.judges.values())).probe
            values = []
            for condition in range(min(DIVERSE_CONDITIONS, -(-self.scenes.count // BATCH))):
                seeds = [self.config.seed * 1_000_003 + 900_000 + k for k in range(DIVERSE_SEEDS)]
                pictures = self._draw(row, np.full(DIVERSE_SEEDS, condition), seeds)
                first, second = np.triu_indices(DIVERSE_SEEDS, 1)
                with torch.no_grad():
                    values.append(metrics.probe_lpips(probe(pictures[first]), probe(pictures[second])).mean())
            partial = path.with_suffix(".partial")
            save_file({"diversity": torch.stack(values)}, partial)
            partial.replace(path)
        return float(load_file(path)["diversity"].mean())

    def table(self, rows: list[Row], known: KeptRows) -> list[Line]:
        """Turn rows into lines of ``results.json``.

        Args:
            rows: of the table.
            known: those that need not be measured; the others are added.
        """
        lines: list[Line] = []
        for row in rows:
            started = time.perf_counter()
            key = f"{folder_of(row, self.config).name}-{self.config.bootstrap}"
            if (found := known.find(row.label, key)) is None:
                line, draws = self._line(row, self.measure(row))
                line["diversity"] = self.diversity(row)
                if self.imagenet is not None:
                    line |= self.imagenet.figures(folder_of(row, self.config))
                found = known.keep(row.label, key, line, draws)
            line, draws = found
            line["own_guidance"] = self._own_guidance(row)  # the card may say another by now
            for name, spread in draws.items():
                self.draws.setdefault(name, {})[row.label] = spread
            lines.append(line)
            write_json(self.config.out / "results.json", {"rows": lines})
            print(
                f"{row.label}: excess {line['excess']:.3f}, depth error {line['depth_error']:.4f}, "
                f"attributes {line['attribute_accuracy']:.3f} ({time.perf_counter() - started:.0f} s)",
                flush=True,
            )
        return lines

    def _own_guidance(self, row: Row) -> bool:
        """Whether a row is guided as its model's card says."""
        if row.variant == BICUBIC:
            return True
        card = self.models[row.variant].card
        return (row.guidance, row.image_guidance) == (card.guidance, card.image_guidance)

    def _line(self, row: Row, measured: dict[str, Measured]) -> tuple[Line, dict[str, Spread]]:
        """A line of the table, and by probe and figure the draws behind its intervals."""
        draws: dict[str, Spread] = {}
        line: Line = {
            **asdict(row),
            "label": row.label,
            "nfe": 0,
            "world": self.config.world,
            "n": self.scenes.count,
            "seed": self.config.seed,
        }
        if row.variant != BICUBIC:
            line["nfe"] = row.steps * row.plan(self.models[row.variant]).guidance.evaluations
        for name, judge in self.judges.items():
            suffix = "" if name == FIRST else f"_{name.lower()}"
            figures, spread = self._judged(name, judge, measured[name])
            line |= {f"{figure}{suffix}": value for figure, value in figures.items()}
            line |= {f"{figure}{suffix}_ci": metrics.interval(values) for figure, values in spread.items()}
            draws[name] = spread
        return line, draws

    def _judged(self, name: str, judge: Judge, read: Measured) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """One probe's figures of a row, and those with an interval under every resampling."""
        n, rounds, seed = self.scenes.count, self.config.bootstrap, self.config.seed
        draws = metrics.bootstrap(n, rounds, seed)
        # The reference is a sample too, of other scenes.
        others = metrics.bootstrap(len(judge.reference), rounds, seed + 1)
        if name not in self.twins:
            twins = judge.points(judge.twins.statistics, np.arange(n))
            self.twins[name] = twins, metrics.frechet_draws(twins, judge.reference, draws, others)
        twins, twins_drawn = self.twins[name]
        points = judge.points(read.statistics, np.arange(n))
        figures = {
            "fd": metrics.frechet(points, judge.reference),
            "excess": metrics.excess(points, twins, judge.reference),
        }
        excess = metrics.frechet_draws(points, judge.reference, draws, others) - twins_drawn
        # Resampled points repeat, which a Fréchet distance takes for more distance: what that adds is taken off again.
        spread = {"excess": excess - excess.mean() + figures["excess"]}
        true = self._figures(judge.twins)
        for figure, values in self._figures(read).items():
            figures[figure] = float(np.nanmean(values))
            spread[figure] = np.array([np.nanmean(values[d]) for d in draws])
            if np.isnan(values).any():
                figures[f"{figure}_n"] = int(np.isfinite(values).sum())
            if ratio := metrics.RATIOS.get(figure):
                figures[ratio] = float(figures[figure] / np.nanmean(true[figure]))
                spread[ratio] = spread[figure] / np.array([np.nanmean(true[figure][d]) for d in draws])
        return figures, spread

    def _figures(self, read: Measured) -> dict[str, np.ndarray]:
        """What is a mean over pictures: its values, (N,), not a number where a picture doesn't count."""
        found = {"attribute_accuracy": read.hits.mean(1).numpy(), "depth_error": read.depth.numpy()}
        found |= dict(zip(metrics.PAIRED, read.paired.T.numpy(), strict=False))
        if self.scenes.before is None:
            return found
        asked = self.scenes.asked
        moved = asked[:, list(ATTRIBUTES).index("water")].numpy()  # a lake that comes or goes moves the ground
        found["depth_error"] = np.where(moved, np.nan, found["depth_error"])
        for name, counted in (("change", asked), ("preserve", ~asked)):
            found[f"{name}_accuracy"] = metrics.all_hit(read.hits, counted).numpy()
        return found

    def gate(self, model: Model) -> dict[str, object]:
        """The probes' entrance examination, on real renders and known damage to them (docs/metrics.md)."""
        n = self.scenes.count
        readings, psnr_vae = self._damaged(model)
        report: dict[str, object] = {}
        for name, judge in self.judges.items():
            twins = judge.points(judge.twins.statistics, np.arange(n))
            entry: dict[str, object] = {
                "attribute_accuracy": float(judge.twins.hits.mean()),
                "depth_error": float(judge.twins.depth.mean()),
                "fd_real": metrics.frechet(twins, judge.reference),
                "psnr_vae": psnr_vae,
                "true": {
                    figure: float(np.nanmean(values))
                    for figure, values in self._figures(judge.twins).items()
                    if figure not in metrics.PAIRED
                },
            }
            for damage, read in readings[name].items():
                entry[f"fd_{damage}"] = metrics.frechet(judge.points(read.statistics, np.arange(n)), judge.reference)
                entry[f"depth_error_{damage}"] = float(read.depth.mean())
            order = [entry[f"fd_{k}"] for k in ("real", "vae", "blur", "shuffled")]
            entry["passed"] = bool(
                entry["attribute_accuracy"] >= 0.97
                and all(a < b for a, b in zip(order, order[1:], strict=False))
                and entry["depth_error_shuffled"] >= 3 * entry["depth_error"]
            )
            report[name] = entry
        return report

    def _damaged(self, model: Model) -> tuple[dict[str, dict[str, Measured]], float]:
        """What each probe reads off damaged renders, by its name and the damage; and the autoencoder's PSNR in dB."""
        shuffled = np.random.default_rng(self.config.seed).permutation(self.scenes.count)
        parts: dict[str, dict[str, list[Measured]]] = {name: {} for name in self.judges}
        loss = []
        for rows in self.batches:
            true = self.scenes.pictures(rows)
            pictures = {
                "vae": autoencoded(model, true),
                "blur": _blurred(true),
                "shuffled": self.scenes.pictures(shuffled[rows]),
            }
            loss.append(metrics.psnr(pictures["vae"], true))
            for (name, judge), (damage, damaged) in product(self.judges.items(), pictures.items()):
                parts[name].setdefault(damage, []).append(judge.read(damaged, rows, against_truth=False))
        joined = {name: {damage: Measured.join(own) for damage, own in found.items()} for name, found in parts.items()}
        return joined, float(torch.cat(loss).mean())


@torch.no_grad()
def autoencoded(model: Model, pictures: Tensor) -> Tensor:
    """What the autoencoder makes of pictures in [0, 1]: what encoding and decoding alone lose."""
    vae = model.components.vae
    return decode(vae, encode(vae, (pictures * 2 - 1).to(model.device))).to(pictures.device)


def _blurred(pictures: Tensor) -> Tensor:
    flat = pictures.flatten(0, 1)[:, None]
    return gaussian_blur(flat, torch.ones(len(flat))).view_as(pictures)


def _flatten(name: str, measured: Measured) -> dict[str, Tensor]:
    scales = {f"{name}.scale{k}": s for k, s in enumerate(measured.statistics)}
    rest = {f"{name}.{field}": getattr(measured, field) for field in ("hits", "depth", "paired")}
    return {**scales, **rest}


def _unflatten(name: str, kept: dict[str, Tensor]) -> Measured:
    scales = [kept[f"{name}.scale{k}"] for k in range(len(metrics.SCALE_FEATURES))]
    return Measured(scales, kept[f"{name}.hits"], kept[f"{name}.depth"], kept[f"{name}.paired"])
