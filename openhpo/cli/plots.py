"""Figures for files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openhpo.errors import UserError

# the colours of Okabe and Ito, which all kinds of eyes tell apart, and two greys
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, BLACK = "#999999", "#333333"


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
