"""The one distinction that every layer needs: a user's mistake is not a bug; and what finds the commonest of them."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Something the user can mend: the text says what is wrong and what to do.

    Raised anywhere, also in an actor's handler, it ends the run on every rank in order. Command lines print the text
    without a traceback and exit with status 2.
    """


def meant(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the known names, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def clipped(text: str, most: int) -> str:
    """A text that a message quotes, of so many characters at most."""
    return text if len(text) <= most else text[: most - 1] + "…"


def whole(value: Any, what: str, least: int = 1) -> int:
    """A whole number of at least `least`.

    Raises:
        UserError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{what} has to be a whole number of at least {least}, not {value!r}")
    return value
