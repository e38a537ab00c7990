"""The command line: ``python -m cdd_core VERB``."""

from __future__ import annotations

import sys

import tyro

from cdd_core.cli import VERBS
from cdd_core.verbs import Verb


def main(argv: list[str]) -> int:
    """Run one verb; errors that a person can mend are one sentence on stderr and exit code 2."""
    verb, extra = tyro.cli(VERBS, args=argv, return_unknown_args=True, prog="python -m cdd_core")
    return run(verb, extra)


def run(verb: Verb, extra: list[str]) -> int:
    """Execute a parsed verb with the arguments it did not know."""
    try:
        verb.run(extra)
    except (ValueError, FileNotFoundError) as error:
        print(f"cdd_core: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # a library that only some people need
        print(f"cdd_core: this needs {error.name}, which isn't here: pip install {error.name}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from torch import OutOfMemoryError

        if not isinstance(error, OutOfMemoryError):
            raise
        print(
            "cdd_core: the GPU has too little memory for this. To train, choose a smaller --loop.batch, or "
            "--loop.optimizer adamw8bit; to draw, --offload",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
