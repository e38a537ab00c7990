"""What every test may use: the device, a tiny family of models on disk, a browser if there is one."""

from __future__ import annotations

import gc
import logging
import os

# Before any of the libraries are imported, and for all processes that tests start. There is no network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# The networks here are so small that threads waiting for each other cost ten times the work.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import shots, url  # noqa: F401 - fixtures

if TYPE_CHECKING:
    import torch

    from cdd_core.loading import Model
    from cdd_core.models import Components

ABROAD = ("CDD_", "GRADIO_SERVER", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
# torch and all that stands on it is imported in the fixtures: the process that only hands out the tests needs none
# of it, and the others wait for that one.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_configure() -> None:
    """It shall not matter where the tests are run: settings of a demo, or the repository that a hook stands in."""
    for name in [name for name in os.environ if name.startswith(ABROAD)]:
        del os.environ[name]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the networks run: cpu (default), cuda, cuda:1 ...")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    order = ("browser", "test_training")
    items.sort(key=lambda item: next((k for k, name in enumerate(order) if name in item.path.stem), len(order)))


def pytest_collection_finish() -> None:
    """All libraries are imported by now: no garbage there, and hundreds of thousands of objects to look through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def any_precision() -> Iterator[None]:
    """accelerate keeps the first precision of a process, which is nothing to the tests after it."""
    yield
    if accelerate := sys.modules.get("accelerate.state"):
        accelerate.AcceleratorState._reset_state(True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Tests of one file stay together, for they share its fixtures; those with a browser, for they share a server."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "browser" if "test_browser" in file else file

    return Scheduler(config, log)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    import torch

    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            pytest.skip(f"--device {chosen} was asked for, but torch sees no CUDA device")
        # Comparisons to 1e-5 need full float32 products.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return chosen


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser for Playwright; tests that need one are skipped without it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="session")
def components() -> Components:
    """Random weights in the shape of the pocket family, 32 pixels a side; the same in every session."""
    import tiny

    return tiny.build_components()


@pytest.fixture(scope="session")
def family(components: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``checkpoints/pocket``: see ``tiny.export_family``."""
    import tiny

    folder = tmp_path_factory.mktemp("family")
    tiny.export_family(components, folder)
    return folder


@pytest.fixture
def quiet_diffusers(caplog: pytest.LogCaptureFixture) -> None:
    """Without the warnings that models in miniature call forth."""
    caplog.set_level(logging.ERROR, "diffusers")


@pytest.fixture(scope="session")
def distilled(family: Path, device: torch.device) -> Model:
    from cdd_core.loading import load

    return load(family, "depth", "distilled", device)


@pytest.fixture(scope="session")
def undistilled(family: Path, device: torch.device) -> Model:
    from cdd_core.loading import load

    return load(family, "depth", "undistilled", device)


@pytest.fixture(scope="session")
def conditions(distilled: Model) -> torch.Tensor:
    """Four different conditions for the tiny models, (4, 3, S, S) in [0, 1]."""
    import torch

    noise = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    resized = torch.nn.functional.interpolate(noise, size=distilled.size, mode="bilinear")
    return resized.expand(-1, 3, -1, -1)
