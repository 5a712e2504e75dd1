"""The environment that a Python child process needs to find this package."""

import os
from pathlib import Path


def child_environment() -> dict[str, str]:
    """Return this process's environment for a Python child, so that it finds this package wherever it lies."""
    package_root = str(Path(__file__).parents[2])
    search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": search_path}
