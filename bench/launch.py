"""Runs a build's module, once its packages are its own: `python -P launch.py ROOT MODULE ARGUMENTS`.

A `.pth` file of the environment may name another tree's folders. If a package would come from there, the
process ends with an error that says so.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

_PACKAGES = ("parley", "local", "functions")


def strangers(root: Path) -> list[str]:
    """Return the packages that this process would not import from `root` alone, each with its folders."""
    found = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        folders = list(spec.submodule_search_locations or []) if spec else []
        if not folders or not all(Path(folder).is_relative_to(root) for folder in folders):
            found.append(f"{name} of {', '.join(folders) or 'nowhere'}")
    return found


def main() -> None:
    """Check and run."""
    root, module, *arguments = sys.argv[1:]
    if found := strangers(Path(root)):
        sys.exit(f"Not the code of {root}: {'; '.join(found)}.")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
