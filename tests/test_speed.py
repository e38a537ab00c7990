"""What training does to be fast changes nothing but the time."""

from __future__ import annotations

import copy
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cdd_core.models import Components
from cdd_core.speed import checkpoint_activations, compile_blocks, mixed_precision, plain_attention


def test_a_stated_precision_is_kept():
    for wanted in ("no", "bf16", "fp16"):
        assert mixed_precision(wanted, torch.device("cpu")) == wanted


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "no")])
def test_a_cpu_without_bf16_instructions_trains_in_full_precision(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
):
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: native)
    assert mixed_precision("auto", torch.device("cpu")) == chosen


def test_plain_attention_computes_the_same(components: Components):
    fused = copy.deepcopy(components.unet).float()
    plain = copy.deepcopy(fused)
    plain_attention(nn.ModuleList([plain]))
    assert {type(p).__name__ for p in plain.attn_processors.values()} == {"AttnProcessor"}
    assert {type(p).__name__ for p in fused.attn_processors.values()} == {"AttnProcessor2_0"}
    generator = torch.Generator().manual_seed(0)
    z, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 24, 32, generator=generator)
    with torch.no_grad():
        one, other = (net(z, torch.tensor([10, 900]), text).sample for net in (fused, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_kept():
    """In a process of its own: blocks that are freed and asked for again cost no new page faults."""
    script = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from cdd_core.memory import keep_freed_memory
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(2**18) for _ in range(240)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(2)][-1])
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "default")
    }
    assert faults["keep"] < 0.1 * faults["default"]


@pytest.mark.parametrize("change", [plain_attention, checkpoint_activations])
def test_what_saves_time_or_memory_learns_the_same(components: Components, change: Callable[[nn.Module], None]):
    plain = copy.deepcopy(components.unet).requires_grad_(True)
    other, generator = copy.deepcopy(plain), torch.Generator().manual_seed(0)
    change(nn.ModuleList([other]))
    z, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 24, 32, generator=generator)
    for network in (plain, other):
        (network(z, torch.tensor([500]), text).sample - 1).square().mean().backward()
    for own, learnt in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(learnt.grad, own.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch compiles with a C++ compiler")
def test_compiled_blocks_compute_the_same(components: Components, monkeypatch: pytest.MonkeyPatch):
    """Gradients too, of which whole compiled U-Nets had lost most; and names, so that they can be saved and loaded."""
    # Without vector instructions: the compiler takes half of the time to find out which of them this machine has.
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", list)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = copy.deepcopy(components.unet).requires_grad_(True)
    compiled = copy.deepcopy(plain)
    middle = compiled.mid_block
    compile_blocks(nn.ModuleList([middle.resnets[0], middle.attentions[0]]))  # each kind; all would take a minute
    generator = torch.Generator().manual_seed(0)
    z, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 24, 32, generator=generator)
    one, other = (net(z, torch.tensor([500]), text).sample for net in (plain, compiled))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    (one - 1).square().mean().backward()
    (other - 1).square().mean().backward()
    for (name, own), learnt in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(learnt.grad, own.grad, rtol=1e-3, atol=1e-6, msg=lambda told, n=name: f"{n}: {told}")
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "something was compiled"
