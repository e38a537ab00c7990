"""How the demo runs: from flags, or from ``CDD_*`` environment variables of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import tyro

PREFIX = "CDD_"
SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Settings:
    """Draw from a depth map with the distilled and the undistilled model, side by side."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 7860
    """Port to listen on."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the models run; auto takes a GPU if there is one."""
    family: str = "auto"
    """Folder under the checkpoints that holds the models; auto takes sd15 where there is a GPU and its weights, else
    pocket."""
    checkpoints: Path = Path("checkpoints")
    """Folder of weights, with its cards.yaml."""
    examples: Path = Path("assets/examples")
    """Folder of examples, with its examples.yaml."""
    max_upload_mb: int = 20
    """Largest file a visitor may upload."""
    max_megapixels: int = 16
    """Largest picture a visitor may upload; of JPEGs four times as large a one."""
    max_files_mb: int = 2000
    """Most space that uploads and results may take together; the oldest make room. All of them go after a day."""
    queue_size: int = 16
    """Runs that may wait for their turn, of all visitors; who comes then is asked to come back."""
    per_visitor: int = 3
    """Runs that one visitor may have waiting."""
    proxies: int = 0
    """Proxies in front of the demo, each of which adds to the X-Forwarded-For header whom it speaks for; what stands
    there before those is the visitor's own writing, and isn't believed."""
    mcp: bool = False
    """Serve the endpoints as tools for language models too; needs pip install "gradio[mcp]"."""
    compile: bool = False
    """Have torch compile the models; takes a C++ compiler and minutes at the first start, and draws faster. On a GPU
    the networks are recorded as CUDA graphs too, which hold some more of its memory."""
    offload: bool = False
    """For small GPUs: networks take turns on it, and wait in ordinary memory."""
    watermark: bool = True
    """Put an invisible mark into every picture; python -m cdd_core inspect finds it."""
    safety_checker: bool = True
    """Withhold pictures that the family's safety checker objects to; the pocket family has none."""
    max_steps: int = 50
    """Most steps the undistilled model may be asked for."""
    max_seconds: int = 120
    """Longest time a run may hold the device."""

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name == "proxies" else 1
            if field.type == "int" and getattr(self, field.name) < least:
                raise ValueError(f"{field.name} must be at least {least}, not {getattr(self, field.name)}")


def read_settings(flags: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from the command line, then the environment, then their defaults; all through one parser.

    Args:
        flags: the command line without the program's name.
        environ: such as ``os.environ``. On a Hugging Face Space (``SPACE_ID``) the demo listens on every address, and
            visitors come through a proxy.

    Raises:
        SystemExit: a switch is neither on nor off: guessing could leave a safety checker out.
    """
    given: list[str] = ["--host", "0.0.0.0", "--proxies", "1"] if environ.get("SPACE_ID") else []
    for field in fields(Settings):
        value = environ.get(PREFIX + field.name.upper())
        flag = f"--{field.name.replace('_', '-')}"
        if value and field.type == "bool":
            if value.lower() not in SWITCHES:
                raise SystemExit(f"{PREFIX}{field.name.upper()} is one of {', '.join(SWITCHES)}, not {value!r}")
            given.append(flag if SWITCHES[value.lower()] else f"--no-{flag[2:]}")
        elif value:
            given += [flag, value]
    return tyro.cli(Settings, args=[*given, *flags])  # a later flag overrides an earlier one
