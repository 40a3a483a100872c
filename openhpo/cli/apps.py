"""Finds the user's training code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from openhpo.allocation import ONE, Ranks
from openhpo.errors import UserError, meant
from openhpo.objective import Objective
from openhpo.space import Space

EXTRA = ("torch", "sklearn")  # modules that the extra `apps` installs


@dataclass(frozen=True)
class App:
    """A module with `train` and `space`, and perhaps `objective`, `max_steps`, `ranks_per_trial` and `data`, a name for what it
    trains on where that may differ.
    """

    name: str
    train: Callable[[Any], Any]
    space: Space
    objective: Objective | None
    max_steps: int | None
    ranks_per_trial: Ranks = ONE
    data: str | None = None


def load_app(text: str) -> App:
    """Import training code.

    Args:
        text: A file such as apps/digits_mlp.py, or a module such as mypackage.training.

    Raises:
        UserError: There is no such code, or it lacks something.
    """
    try:
        module = _load_file(Path(text)) if text.endswith(".py") or "/" in text else _load_module(text)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise UserError(f"{text} needs {error.name}, which is not installed: pip install 'openhpo[apps]'") from None
    for name, what in (("train", "the function that trains"), ("space", "the hpo.Space to search")):
        if not hasattr(module, name):
            raise UserError(f"{text} has no `{name}`: an app defines `{name}`, {what}. apps/branin.py is a short example.")
    if not callable(module.train):
        raise UserError(f"`train` in {text} is no function, but {type(module.train).__name__}")
    space = module.space
    if not isinstance(space, Space):
        if not hasattr(space, "sample_configuration"):
            raise UserError(f"`space` in {text} is no hpo.Space, but {type(space).__name__}")
        space = Space(space)
    objective = getattr(module, "objective", None)
    if objective is not None and not isinstance(objective, Objective):
        raise UserError(f"`objective` in {text} is neither hpo.Minimize(...) nor hpo.Maximize(...)")
    name = module.__name__.rpartition(".")[2]
    ranks = getattr(module, "ranks_per_trial", ONE)
    data = getattr(module, "data", None)
    if not isinstance(data, str):  # a function or a module of that name is none
        data = None
    return App(name, module.train, space, objective, getattr(module, "max_steps", None), ranks, data)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        there = [str(other) for folder in {path.parent, Path("apps")} if folder.is_dir() for other in folder.glob("*.py")]
        raise UserError(f"there is no app {path}: the file does not exist.{meant(str(path), there)}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))  # its neighbours can be imported, as when it is run itself
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            sys.path.append(str(Path(spec.origin).parent))  # for its neighbours; last, so that they hide nothing
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the app is there, and lacks one of its own imports
    there = [str(other) for folder in (Path(), Path("apps")) for other in folder.glob("*.py")]
    near = meant(f"apps/{name}.py", there) or meant(f"{name}.py", there)
    raise UserError(f"there is no app {name!r}: no module of that name can be imported, and it is no path to a .py file.{near}")
