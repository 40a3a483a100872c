"""The commands that help to begin: a starter app, and a list of what is around."""

from __future__ import annotations

import ast
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from openhpo.errors import UserError


def new(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The app to write, such as my_app.py.")],
) -> None:
    """Write a commented starter app, which runs as it is."""
    path = Path(file if file.endswith(".py") else f"{file}.py")
    if not path.stem.isidentifier():
        raise UserError(
            f"{path.name} cannot be imported as a module: choose a name of letters, digits and _, such as my_app.py"
        )
    if path.exists():
        raise UserError(f"{path} is there already: choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((resources.files("openhpo.cli") / "starter.py").read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    print(f"{path} is an app. Try it:\n\n  openhpo run random {path} --trials 20\n\nthen change `space` and `train`.")


def apps_around() -> list[tuple[str, str]]:
    """The apps in this folder and in apps/: the file, and what its first line says. Nothing is imported."""
    found = []
    for path in sorted({*Path().glob("*.py"), *Path("apps").glob("*.py")}):
        try:
            tree = ast.parse(path.read_text())
        except (OSError, SyntaxError, ValueError):
            continue
        names = {name for node in tree.body for name in _defined(node)}
        if {"train", "space"} <= names:
            found.append((str(path), (ast.get_docstring(tree) or "").partition("\n")[0]))
    return found


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom | ast.Import):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
