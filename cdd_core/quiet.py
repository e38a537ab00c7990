"""Programs speak for themselves: libraries below them keep their progress bars and remarks."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Switch off what diffusers and transformers print while they load weights; errors still come through.

    A switch of the whole process, so it is for programs to call and not for modules to do on import.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
