"""The environment of stages in a copy of the source tree."""

import os
import sys
from pathlib import Path


def of_stages(root: Path, own: Path, commit: str) -> dict[str, str]:
    """Return the environment in which stages run this interpreter and the copy's source, and know its commit.

    Args:
        root: the copy of the source tree.
        own: a folder for a script, not one of the stages'.
        commit: what `root` is a copy of.
    """
    # Stages call `python`. It is a script, because a link to an environment's interpreter does not use the environment.
    python = own / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return os.environ | {
        "PATH": os.pathsep.join([str(python.parent.resolve()), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root / "src"), os.environ.get("PYTHONPATH")])),
        "TRIMLAB_COMMIT": commit,
    }
