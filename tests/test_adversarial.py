"""The adversarial loss: whose gradient goes where, and what the discriminator looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from cdd_core.distill.adversarial import Discriminator, adversarial_step

CHANNELS, CONTEXT = 2, 6


def discriminator(seed: int = 0) -> Discriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(CHANNELS, 1, CONTEXT, (8, 16))


def noise(rows: int, seed: int, channels: int = CHANNELS) -> Tensor:
    return torch.randn(rows, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def words(rows: int, seed: int = 9) -> Tensor:
    return torch.randn(rows, 3, CONTEXT, generator=torch.Generator().manual_seed(seed))


def test_gradients_go_where_they_belong():
    judge, x0 = discriminator(), noise(4, 1).requires_grad_(True)
    losses = adversarial_step(judge, x0, noise(4, 2), words(4), noise(4, 3, 1), noise(4, 4))
    losses.student.backward(retain_graph=True)
    assert x0.grad.abs().max() > 0
    assert all(p.grad is None for p in judge.parameters())
    x0.grad = None
    losses.discriminator.backward()
    assert x0.grad is None
    # Real and fake push a bias in opposite directions, by the same amount as long as both are doubted.
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in judge.parameters() if p.ndim > 1)


def test_condition_and_prompt_are_looked_at():
    judge, x = discriminator(), noise(4, 1)
    first = judge(x, words(4), noise(4, 3, 1))
    assert not torch.allclose(first, judge(x, words(4, 8), noise(4, 3, 1)))
    assert not torch.allclose(first, judge(x, words(4), noise(4, 5, 1)))


def test_a_larger_condition_is_brought_to_the_latents_size():
    judge, x, small = discriminator(), noise(2, 1), noise(2, 3, 1)
    large = torch.nn.functional.interpolate(small, scale_factor=4.0)
    torch.testing.assert_close(judge(x, words(2), small), judge(x, words(2), large))


def test_a_student_is_drawn_to_what_is_real():
    """Real latents are the condition plus 2; a student that starts at the condition ends there."""
    judge, shift = discriminator(), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([*judge.parameters(), shift], lr=3e-3, betas=(0.5, 0.99))
    averages = []
    for step in range(700):
        condition, text = noise(16, 100 + step, 1), words(16)
        real = condition.expand(-1, CHANNELS, -1, -1) + 2
        drawn = condition.expand(-1, CHANNELS, -1, -1) + shift
        losses = adversarial_step(judge, drawn, real, text, condition, noise(16, 9000 + step))
        optimizer.zero_grad()
        (0.3 * losses.student + losses.discriminator).backward()
        optimizer.step()
        averages.append(shift.item())
    assert abs(sum(averages[-200:]) / 200 - 2) < 0.5


def test_first_verdicts_are_as_large_as_what_is_asked_of_them():
    """The hinge asks for 1 and -1; from verdicts of a hundredth of that, nothing is learnt within a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Discriminator(4, 3, CONTEXT)
    generator = torch.Generator().manual_seed(1)
    latents, condition = (torch.randn(8, channels, 32, 32, generator=generator) for channels in (4, 3))
    with torch.no_grad():
        assert 0.3 < judge(latents, words(8), condition).std() < 3
