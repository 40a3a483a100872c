"""Figures for files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openhpo.errors import UserError


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing to files. Call it before what takes long, too, so that a lack of it is noticed then.

    Raises:
        UserError: It is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("the plots need matplotlib: pip install 'openhpo[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> Path:
    """Write a figure, and return where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
