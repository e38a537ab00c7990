"""Stage ``vae``: a small deterministic autoencoder whose latents are about standard normal."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F

from cdd_core.config import VaeConfig
from cdd_core.data.store import TerraStore
from cdd_core.trainer import Draws, Losses, Stage


class VaeStage(Stage):
    """Reconstruction on random crops, with noise on the latents and a pull of their moments to N(0, 1)."""

    def __init__(self, config: VaeConfig, store: TerraStore) -> None:
        super().__init__()
        self.config, self.store = config, store
        e, d = config.encoder_channels, config.decoder_channels
        self.student = AutoencoderTiny(
            encoder_block_out_channels=(e, e, e),
            decoder_block_out_channels=(d, d, d),
            num_encoder_blocks=config.encoder_blocks,
            num_decoder_blocks=config.decoder_blocks[::-1],
            latent_channels=4,
            scaling_factor=1.0,
        )

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        crop, size = self.config.crop, self.store.image.shape[-1]
        rows = torch.randint(len(self.store), (count,), generator=generator)
        corner = torch.randint(size - crop + 1, (count, 2), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5
        side = crop // 4
        noise = torch.randn(count, 4, side, side, generator=generator)
        return {"rows": rows, "corner": corner, "flip": flip, "noise": noise}

    def forward(self, draws: Draws) -> Losses:
        pictures = self._crops(draws)
        latents = self.student.encode(pictures).latents
        noisy = latents + self.config.latent_noise * draws["noise"]
        redrawn = self.student.decode(noisy).sample.float()
        pixels = (redrawn - pictures).abs().mean() + 2 * F.mse_loss(redrawn, pictures)
        edges = _edges(redrawn - pictures)
        moments = _moments(latents.float())
        loss = pixels + edges + self.config.moment_weight * moments
        psnr = -10 * torch.log10(F.mse_loss(redrawn, pictures) / 4)
        return {"loss": loss, "pixels": pixels, "edges": edges, "moments": moments, "psnr": psnr}

    def networks(self) -> list[nn.Module]:
        return [self.student.encoder, self.student.decoder]

    def _crops(self, draws: Draws) -> Tensor:
        images = self.store.images(draws["rows"].cpu().numpy()).to(draws["noise"].device)
        crop = self.config.crop
        cut = [
            image[:, y : y + crop, x : x + crop] for image, (y, x) in zip(images, draws["corner"].tolist(), strict=True)
        ]
        pictures = torch.stack(cut)
        flipped = torch.where(draws["flip"][:, None, None, None], pictures.flip(3), pictures)
        return flipped.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def preview(self, averaged: nn.Module) -> Tensor:
        images = self.store.images(torch.arange(8).numpy()).to(next(averaged.parameters()).device)
        redrawn = averaged.decode(averaged.encode(images).latents).sample.clamp(-1, 1)
        rows = [torch.cat(list(half), 2) for half in (images, redrawn)]
        return (torch.cat(rows, 1) + 1) / 2

    def export(self, averaged: nn.Module, folder: Path) -> None:
        averaged.save_pretrained(folder / "vae")


def _edges(error: Tensor) -> Tensor:
    """Mean absolute error of the first differences: blur costs more than a faint tint."""
    return (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()


def _moments(latents: Tensor) -> Tensor:
    """KL from each channel's normal fit to N(0, 1), summed over channels: 0 when mean is 0 and variance 1."""
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return 0.5 * (mean.square() + variance - 1 - variance.log()).sum()
