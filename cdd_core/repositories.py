"""Where public weights come from: the Hub, or a folder of repositories; and files that are not in diffusers' layout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from diffusers import ControlNetModel
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the latter of the client that this version speaks by


class Repositories(Protocol):
    """What both have in common."""

    def files(self, repository: str) -> list[str]:
        """Names of all files, with their folders."""

    def get(self, repository: str, file: str, to: Path) -> None:
        """Write one file to ``to``."""


class Hub:
    """The Hugging Face Hub, with its own cache and resuming. What it hands out may be the very file of that cache."""

    def files(self, repository: str) -> list[str]:
        """Names of all files, with their folders.

        Raises:
            FileNotFoundError: the Hub can't be reached, or has no such repository for this user.
        """
        with _told(repository):
            return HfApi().list_repo_files(repository)

    def get(self, repository: str, file: str, to: Path) -> None:
        """Write one file to ``to``; raises as :meth:`files`."""
        with _told(f"{repository}/{file}"):
            here = Path(hf_hub_download(repository, file)).resolve()
        try:
            to.hardlink_to(here)  # gigabytes need not lie in the cache and here, too
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(here, to)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What goes wrong between here and the Hub, as one sentence."""
    try:
        yield
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{what} can't be fetched from the Hugging Face Hub ({type(error).__name__}); check the network and, for a "
            f"repository with terms, that you have accepted them and are logged in"
        ) from error


class Folder:
    """Repositories as folders ``root/owner/name``, as ``git clone`` leaves them.

    Args:
        root: of the owners' folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self, repository: str) -> list[str]:
        """Names of all files, with their folders.

        Raises:
            FileNotFoundError: no such repository.
        """
        home = self.root / repository
        if not home.is_dir():
            raise FileNotFoundError(f"{self.root} holds no repository {repository}")
        return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())

    def get(self, repository: str, file: str, to: Path) -> None:
        """Write one file to ``to``; raises as :meth:`files`."""
        if not (self.root / repository / file).is_file():
            raise FileNotFoundError(f"{self.root} holds no file {repository}/{file}")
        shutil.copyfile(self.root / repository / file, to)


def convert_single_file(weights: Path, config: Path, out: Path) -> None:
    """A ControlNet that its authors share as one file, in diffusers' layout and half precision.

    Args:
        weights: safetensors, with the names of the original implementation.
        config: ``config.json`` of the same architecture.
        out: folder to write into.

    Raises:
        ValueError: these weights are not of this architecture.
    """
    try:
        network = ControlNetModel.from_single_file(
            str(weights), config=str(config.parent), local_files_only=True, torch_dtype=torch.float16
        )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{weights.name} holds no ControlNet of the architecture that {config} describes") from error
    network.save_pretrained(out)
