"""The command that writes a study in other tools' formats."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openhpo.cli.inspect import StudyArgument


class Format(StrEnum):
    """What can be written."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"
    OPTUNA = "optuna"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


def export(
    study: StudyArgument,
    to: Annotated[
        Format,
        typer.Option(
            help="csv and parquet: a file for trials and one for learning curves; json: one file; "
            "optuna: a database that optuna-dashboard opens; tensorboard: scalars and hparams; mlflow: a tracking store."
        ),
    ],
    into: Annotated[str | None, typer.Option(metavar="PATH", help="Where.", show_default="export-FORMAT in STUDY")] = None,
) -> None:
    """Write a study, finished or not, for other tools."""
    from openhpo.report.exports import EXPORTS
    from openhpo.result import load

    result = load(study)
    path = Path(into) if into is not None else result.path / f"export-{to.value}"
    for file in EXPORTS[to.value](result, path):
        print(file)
