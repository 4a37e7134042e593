"""Find the models that ship with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_PREFIX = "loupe/"


def bundled_path(name: str) -> Path | None:
    """The folder of a bundled model (`loupe/landmarks`), or None for any other id."""
    if not name.startswith(_PREFIX):
        return None
    folder = Path(str(files("loupe"))) / "data" / name.removeprefix(_PREFIX)
    return folder if (folder / "config.json").is_file() else None


def bundled_names() -> list[str]:
    """The ids of the bundled models."""
    root = Path(str(files("loupe"))) / "data"
    folders = root.iterdir() if root.is_dir() else ()
    return sorted(f"{_PREFIX}{folder.name}" for folder in folders if (folder / "config.json").is_file())
