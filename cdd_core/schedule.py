"""The noise schedule, the three ways a network may predict, the DDIM step, and the grids of few-step sampling.

Variance preserving: z_t = alpha_t x + sigma_t eps with alpha_t^2 + sigma_t^2 = 1 (CDD eq. 7). Steps go from t to
s, s < t; ``CLEAN`` (-1) stands for the noise-free end, alpha = 1 and sigma = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

PREDICTIONS = ("v_prediction", "epsilon", "sample")
CLEAN = -1


@dataclass(frozen=True)
class Prediction:
    """What a network says of z_t: the clean signal and the noise, same shape as z_t."""

    x0: Tensor
    eps: Tensor


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) so that it multiplies a tensor (B, ...)."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


class Schedule:
    """alpha_t and sigma_t of a trained model, read from its scheduler config.

    Args:
        config: a diffusers scheduler config; ``prediction_type`` must be in it.

    Raises:
        ValueError: the config does not say what the network predicts, or says epsilon while its last step is
            pure noise, from which a noise prediction says nothing about the signal.
    """

    def __init__(self, config: dict[str, object]) -> None:
        prediction = config.get("prediction_type")
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"the scheduler config says prediction_type={prediction!r}; it must be one of {', '.join(PREDICTIONS)}"
            )
        self.prediction_type = str(prediction)
        scheduler = DDIMScheduler.from_config(dict(config))
        alpha_bar = scheduler.alphas_cumprod.double().clamp(0, 1)
        if self.prediction_type == "epsilon" and alpha_bar[-1] == 0:
            raise ValueError("an epsilon-predicting model cannot start from zero SNR; use v_prediction")
        self.steps = len(alpha_bar)
        # The last entry answers t = CLEAN by Python's own indexing.
        self.alphas = torch.cat([alpha_bar, torch.ones(1, dtype=torch.float64)]).sqrt()
        self.sigmas = (1 - torch.cat([alpha_bar, torch.ones(1, dtype=torch.float64)])).sqrt()

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t for timesteps (B,) in [CLEAN, steps), shaped to multiply ``like`` (B, ...)."""
        home = torch.device("cpu") if t.device.type == "mps" else t.device  # Apple's GPUs know no float64
        if self.alphas.device != home:
            self.alphas, self.sigmas = self.alphas.to(home), self.sigmas.to(home)
        alpha, sigma = (table[t.to(home)].to(like.dtype).to(like.device) for table in (self.alphas, self.sigmas))
        return per_sample(alpha, like), per_sample(sigma, like)

    def noise(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t = alpha_t x + sigma_t eps (eq. 7)."""
        alpha_t, sigma_t = self.at(t, x)
        return alpha_t * x + sigma_t * eps

    def to_prediction(self, output: Tensor, z_t: Tensor, t: Tensor) -> Prediction:
        """Network output to (x0, eps), by the model's stated prediction type (eq. 8 for v)."""
        alpha_t, sigma_t = self.at(t, z_t)
        if self.prediction_type == "v_prediction":
            return Prediction(alpha_t * z_t - sigma_t * output, sigma_t * z_t + alpha_t * output)
        if self.prediction_type == "epsilon":
            return Prediction((z_t - sigma_t * output) / alpha_t, output)
        # At sigma = 0 the state is the signal and says nothing of the noise: zero is as good as any.
        eps = torch.where(sigma_t > 0, (z_t - alpha_t * output) / sigma_t.clamp_min(1e-12), torch.zeros_like(z_t))
        return Prediction(output, eps)

    def to_output(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a perfect network of this prediction type would output for the pair (x, eps): the training target."""
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "sample":
            return x
        alpha_t, sigma_t = self.at(t, x)
        return alpha_t * eps - sigma_t * x

    def ddim(self, prediction: Prediction, s: Tensor) -> Tensor:
        """One deterministic step to s: z_s = alpha_s x0 + sigma_s eps (eq. 9, DDIM with eta 0)."""
        return self.noise(prediction.x0, prediction.eps, s)

    def snr(self, t: Tensor) -> Tensor:
        """alpha_t^2 / sigma_t^2 in float64, shape (B,)."""
        alpha, sigma = self.at(t, torch.empty(len(t), dtype=torch.float64, device=t.device))
        return alpha.square() / sigma.square().clamp_min(1e-20)


def grid(count: int, stages: int, steps: int, renoise_from: float = 1.0) -> list[int]:
    """Timesteps of a run, from pure noise down: ``count`` of the ``stages`` evenly trailing points of ``steps``.

    A distilled model knows the ``stages`` points it was trained on; an undistilled one knows all (stages = steps),
    and then this is diffusers' "trailing" spacing. The first is always the last training timestep.

    Args:
        count: of the timesteps.
        stages, steps: points and training timesteps.
        renoise_from: the second timestep is no later than this share of the axis, and those after it trail evenly from
            there, unless there are too many of them; 1 spreads all of them evenly.

    Raises:
        ValueError: more steps asked than there are stages.
    """
    if not 1 <= count <= stages:
        raise ValueError(f"the number of steps is between 1 and {stages} for this model, not {count}")
    chosen = np.arange(stages, 0, -stages / count)[:count]
    second = max(renoise_from * stages, count - 1)
    if count > 1 and second < chosen[1]:
        chosen[1:] = np.arange(second, 0, -second / (count - 1))[: count - 1]
    return [round(k * steps / stages) - 1 for k in np.round(chosen).astype(int).tolist()]
