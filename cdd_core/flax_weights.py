"""Public CoDi weights are Flax: their ControlNet, read from msgpack, as a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgpack
import numpy as np
import torch
from diffusers import ControlNetModel
from torch import Tensor

ARRAY, BFLOAT16 = 1, "bfloat16"  # flax.serialization: the extension code of an array; a type that numpy lacks
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def convert_flax_controlnet(weights: Path, config: Path, out: Path) -> None:
    """Write ``out`` as ``ControlNetModel.save_pretrained`` does.

    Args:
        weights: ``diffusion_flax_model.msgpack``.
        config: its ``config.json``.
        out: a folder that diffusers loads.

    Raises:
        FileNotFoundError: one of the files isn't there.
        ValueError: the weights aren't those of such a network; the message names the first that is missing.
    """
    for path in (weights, config):
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}")
    settings = ControlNetModel.load_config(config)
    net = ControlNetModel.from_config({k: v for k, v in settings.items() if not k.startswith("_")})
    try:
        given = _flat(msgpack.unpackb(weights.read_bytes(), ext_hook=_array, strict_map_key=False))
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"{weights} holds no Flax weights: {error}") from error
    state = {}
    for name, like in net.state_dict().items():
        # Flax joins with underscores what torch joins with dots, so both are compared without either.
        found = given.pop(name.replace(".", "_"), None)
        if found is None:
            raise ValueError(f"{weights} has no {name}: it belongs to another network than {config}")
        state[name] = _as_torch(found, name, like)
    if given:
        raise ValueError(f"{weights} has {next(iter(given))} beside the network of {config}")
    net.load_state_dict(state)
    net.save_pretrained(out)


def _array(code: int, data: bytes) -> object:
    """An array from flax's extension type: shape, name of the type, bytes."""
    if code != ARRAY:
        return msgpack.ExtType(code, data)
    shape, kind, content = msgpack.unpackb(data)
    kind = kind.decode() if isinstance(kind, bytes) else kind
    if kind == BFLOAT16:
        return torch.frombuffer(bytearray(content), dtype=torch.bfloat16).reshape(shape)
    return torch.from_numpy(np.frombuffer(content, np.dtype(kind)).reshape(shape).copy())


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, Tensor]:
    """Leaves by their joined names, those of the last level as torch calls them."""
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        name = key.decode() if isinstance(key, bytes) else str(key)
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}_")
        else:
            flat[prefix + LEAVES.get(name, name)] = value
    return flat


def _as_torch(value: Tensor, name: str, like: Tensor) -> Tensor:
    """Flax keeps kernels as (height, width, in, out) and (in, out)."""
    turned = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T if value.ndim == 2 else value
    if turned.shape != like.shape:
        raise ValueError(f"{name} has the shape {tuple(turned.shape)} instead of {tuple(like.shape)}")
    return turned.to(like.dtype).contiguous()
