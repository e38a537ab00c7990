"""Stages ``vae`` and ``decoder``: a small autoencoder whose latents are about standard normal, then its texture."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F

from cdd_core.config import DecoderConfig, VaeConfig
from cdd_core.data.photos import Crops
from cdd_core.data.store import TerraStore
from cdd_core.denoiser import balance, constant
from cdd_core.distill.adversarial import hinge
from cdd_core.trainer import Draws, Losses, Stage


class CropStage(Stage):
    """Random crops of the store, mirrored at random, and noise for their latents."""

    def __init__(self, store: TerraStore, crop: int) -> None:
        super().__init__()
        self.store, self.crop = store, crop

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        size, side = self.store.image.shape[-1], self.crop // 4
        return {
            "rows": torch.randint(len(self.store), (count,), generator=generator),
            "corner": torch.randint(size - self.crop + 1, (count, 2), generator=generator),
            "flip": torch.rand(count, generator=generator) < 0.5,
            "noise": torch.randn(count, 4, side, side, generator=generator),
        }

    def whole(self, draws: Draws) -> Tensor:
        """The pictures that the crops are cut from, (B, 3, S, S)."""
        return self.store.images(draws["rows"].cpu().numpy())

    def crops(self, draws: Draws) -> Tensor:
        """Pictures in [-1, 1], (B, 3, crop, crop)."""
        images = self.whole(draws).to(draws["noise"].device)
        cut = [
            image[:, y : y + self.crop, x : x + self.crop]
            for image, (y, x) in zip(images, draws["corner"].tolist(), strict=True)
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


class VaeStage(CropStage):
    """Reconstruction, with noise on the latents and a pull of their moments to N(0, 1)."""

    def __init__(self, config: VaeConfig, store: TerraStore) -> None:
        super().__init__(store, config.crop)
        self.config = config
        e, d = config.encoder_channels, config.decoder_channels
        self.student = AutoencoderTiny(
            encoder_block_out_channels=(e, e, e),
            decoder_block_out_channels=(d, d, d),
            num_encoder_blocks=config.encoder_blocks,
            num_decoder_blocks=config.decoder_blocks[::-1],
            latent_channels=4,
            scaling_factor=1.0,
        )

    def forward(self, draws: Draws) -> Losses:
        pictures = self.crops(draws)
        latents = self.student.encode(pictures).latents
        noisy = latents + self.config.latent_noise * draws["noise"]
        redrawn = self.student.decode(noisy).sample.float()
        error = _reconstruction(redrawn, pictures)
        moments = _moments(latents.float())
        loss = error + self.config.moment_weight * moments
        return {"loss": loss, "error": error.detach(), "moments": moments, "psnr": _psnr(redrawn, pictures)}


class DecoderStage(CropStage):
    """The decoder against a critic of patches (PatchGAN, Isola et al. 2017), as autoencoders of latent diffusion learn.

    Args:
        config: see :class:`DecoderConfig`.
        store: pictures.
        vae: trained; its encoder is not touched.
        squares: of photographs, so that it can draw these too; left out if there are none.
    """

    def __init__(self, config: DecoderConfig, store: TerraStore, vae: AutoencoderTiny, squares: Crops | None) -> None:
        super().__init__(store, config.crop)
        self.squares = squares
        self.config, self.student = config, vae.requires_grad_(True)
        vae.encoder.requires_grad_(False)
        widths = (3, *config.critic_channels)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        draws = super().draw(generator, count)
        draws["photo"] = torch.rand(count, generator=generator) < (self.config.photo_share if self.squares else 0.0)
        return draws

    def whole(self, draws: Draws) -> Tensor:
        images = super().whole(draws)
        photo = draws["photo"].cpu()
        if photo.any():
            images[photo] = self.squares.images(draws["rows"].cpu()[photo].numpy() % len(self.squares))
        return images

    def forward(self, draws: Draws) -> Losses:
        pictures = self.crops(draws)
        with torch.no_grad():
            latents = self.student.encode(pictures).latents
        redrawn = self.student.decode(latents + self.config.latent_noise * draws["noise"]).sample.float()
        error = _reconstruction(redrawn, pictures)
        with constant(self.critic):
            deceived = -self.critic(redrawn).mean()
        verdicts = hinge(self.critic(pictures), self.critic(redrawn.detach()))
        last = list(self.student.decoder.parameters())[-2]  # where Esser et al. 2021, eq. 7, compare gradients
        weight = self.config.adversarial_weight * balance(error, deceived, last)
        return {
            "loss": error + weight * deceived + verdicts,
            "error": error.detach(),
            "critic": verdicts.detach(),
            "weight": weight,
            "psnr": _psnr(redrawn, pictures),
        }


def _reconstruction(redrawn: Tensor, pictures: Tensor) -> Tensor:
    """Mean absolute and squared error, and the absolute error of first differences: blur costs more than a tint."""
    error = redrawn - pictures
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges


def _psnr(redrawn: Tensor, pictures: Tensor) -> Tensor:
    return -10 * torch.log10(F.mse_loss(redrawn.detach(), pictures) / 4)


def _moments(latents: Tensor) -> Tensor:
    """KL from each channel's normal fit to N(0, 1), summed over channels: 0 when mean is 0 and variance 1."""
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return 0.5 * (mean.square() + variance - 1 - variance.log()).sum()
