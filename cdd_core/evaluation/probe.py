"""The probe: a small network that reads attributes and depth off a picture, trained on Terra's renders alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cdd_core.config import ProbeConfig
from cdd_core.data.store import TerraStore
from cdd_core.data.terra.attributes import ATTRIBUTES
from cdd_core.tasks import depth_condition
from cdd_core.trainer import Draws, Losses, Stage

WIDTHS = (32, 48, 64, 96)
DEPTH_SIDE = 64
DEPTH_GAMMA = 0.5  # depth error is measured in the encoding that the pocket models are given


@dataclass(frozen=True)
class Reading:
    """What the probe sees.

    Attributes:
        logits: for each attribute, shape (B, number of values).
        depth: in [0, 1] as ``depth_condition`` encodes it, shape (B, 1, 64, 64).
        maps: features at four scales, (B, C_k, S_k, S_k) with S = 64, 32, 16, 8 for a picture of 128.
    """

    logits: dict[str, Tensor]
    depth: Tensor
    maps: tuple[Tensor, ...]


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm around an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Probe(nn.Module):
    """Four scales down with a residual block each; attribute heads on the coarsest, depth decoded back up."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), Residual(o))
            for i, o in zip(inputs, WIDTHS, strict=True)
        )
        self.middle = Residual(WIDTHS[-1])
        self.heads = nn.ModuleDict({name: nn.Linear(2 * WIDTHS[-1], len(v)) for name, v in ATTRIBUTES.items()})
        self.lift = nn.ModuleList(
            nn.Conv2d(above, here, 1) for above, here in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.fuse = nn.ModuleList(Residual(width) for width in WIDTHS[-2::-1])
        self.depth = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> Reading:
        """Read pictures in [0, 1], shape (B, 3, 128, 128)."""
        x, maps = pictures * 2 - 1, []
        for level in self.down:
            x = level(x)
            maps.append(x)
        x = self.middle(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        logits = {name: head(pooled) for name, head in self.heads.items()}
        for lift, fuse, skip in zip(self.lift, self.fuse, maps[-2::-1], strict=True):
            x = fuse(skip + F.interpolate(lift(x), scale_factor=2, mode="nearest"))
        return Reading(logits, self.depth(F.silu(x)), tuple(maps))


def probe_depth(disparity: Tensor) -> Tensor:
    """Ground truth for the probe's depth, (B, 1, 64, 64), from disparity (B, 1, S, S)."""
    return F.adaptive_avg_pool2d(depth_condition(disparity, DEPTH_GAMMA)[:, :1], DEPTH_SIDE)


class ProbeStage(Stage):
    """Cross-entropy on the attributes and mean absolute error on depth; mirrored at random."""

    def __init__(self, config: ProbeConfig, store: TerraStore) -> None:
        super().__init__()
        self.config, self.store = config, store
        self.student = Probe()

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        return {
            "rows": torch.randint(len(self.store), (count,), generator=generator),
            "flip": torch.rand(count, generator=generator) < 0.5,
        }

    def forward(self, draws: Draws) -> Losses:
        rows, device = draws["rows"].cpu().numpy(), draws["rows"].device
        flip = draws["flip"][:, None, None, None]
        pictures = self.store.images(rows).to(device) / 2 + 0.5
        truth = probe_depth(self.store.disparities(rows).to(device))
        reading = self.student(torch.where(flip, pictures.flip(3), pictures))
        codes = self.store.attributes(rows).to(device)
        named = zip(reading.logits.values(), codes.unbind(1), strict=True)
        attributes = sum(F.cross_entropy(logits.float(), code) for logits, code in named)
        depth = (reading.depth.float() - torch.where(flip, truth.flip(3), truth)).abs().mean()
        return {"loss": attributes + self.config.depth_weight * depth, "attributes": attributes, "depth": depth}

    @torch.no_grad()
    def preview(self, averaged: nn.Module) -> Tensor:
        rows = torch.arange(8).numpy()
        device = next(averaged.parameters()).device
        depth = averaged(self.store.images(rows).to(device) / 2 + 0.5).depth.clamp(0, 1)
        truth = probe_depth(self.store.disparities(rows).to(device))
        sheet = torch.cat([torch.cat(list(half), 2) for half in (truth, depth)], 1)
        return sheet.expand(3, -1, -1)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in averaged.state_dict().items()}, folder / "probe.safetensors")


def load_probe(folder: Path, device: str | torch.device = "cpu") -> Probe:
    """A trained probe, frozen.

    Raises:
        FileNotFoundError: ``folder`` holds none.
    """
    path = folder / "probe.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no probe; train it with: python -m cdd_core train --stage probe")
    probe = Probe()
    probe.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return probe.to(device).eval().requires_grad_(False)
