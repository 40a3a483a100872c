"""Hyperparameter optimisation on supercomputers, with nothing but MPI and a file system.

`import openhpo as hpo` gives the public names below; each is imported when it is first used, because a thousand ranks that
import from one file system are a cost.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openhpo.actors import Actor as Actor
    from openhpo.actors import ActorFailed as ActorFailed
    from openhpo.actors import Address as Address
    from openhpo.actors import Message as Message
    from openhpo.actors import PeerLost as PeerLost
    from openhpo.actors import WorkDone as WorkDone
    from openhpo.actors import WorkFailed as WorkFailed
    from openhpo.actors import handles as handles
    from openhpo.actors import run_actors as run_actors
    from openhpo.callbacks import Callback as Callback
    from openhpo.callbacks import MLflow as MLflow
    from openhpo.callbacks import TensorBoard as TensorBoard
    from openhpo.engines import ASHA as ASHA
    from openhpo.engines import Engine as Engine
    from openhpo.engines import Full as Full
    from openhpo.engines import Hyperband as Hyperband
    from openhpo.engines import LearningCurveMatching as LearningCurveMatching
    from openhpo.engines import MedianStopping as MedianStopping
    from openhpo.engines import PopulationBased as PopulationBased
    from openhpo.engines import Request as Request
    from openhpo.engines import SuccessiveHalving as SuccessiveHalving
    from openhpo.errors import UserError as UserError
    from openhpo.hyperparameters import Categorical as Categorical
    from openhpo.hyperparameters import Float as Float
    from openhpo.hyperparameters import Integer as Integer
    from openhpo.launch import run as run
    from openhpo.launch import run_together as run_together
    from openhpo.objective import Maximize as Maximize
    from openhpo.objective import Minimize as Minimize
    from openhpo.objective import first_step as first_step
    from openhpo.plan import Plan as Plan
    from openhpo.result import Result as Result
    from openhpo.result import load as load
    from openhpo.result import load_together as load_together
    from openhpo.samplers import TPE as TPE
    from openhpo.samplers import GaussianProcess as GaussianProcess
    from openhpo.samplers import Grid as Grid
    from openhpo.samplers import Listed as Listed
    from openhpo.samplers import Optuna as Optuna
    from openhpo.samplers import Random as Random
    from openhpo.samplers import Refinement as Refinement
    from openhpo.samplers import Sampler as Sampler
    from openhpo.samplers import Sobol as Sobol
    from openhpo.samplers import Suggest as Suggest
    from openhpo.schedules import Chain as Chain
    from openhpo.schedules import Constant as Constant
    from openhpo.schedules import Cosine as Cosine
    from openhpo.schedules import Cyclic as Cyclic
    from openhpo.schedules import Exponential as Exponential
    from openhpo.schedules import Linear as Linear
    from openhpo.schedules import Polynomial as Polynomial
    from openhpo.schedules import Schedule as Schedule
    from openhpo.schedules import Steps as Steps
    from openhpo.schedules import Switch as Switch
    from openhpo.schedules import Warmup as Warmup
    from openhpo.space import Space as Space
    from openhpo.stages import Stage as Stage
    from openhpo.stages import State as State
    from openhpo.stages import Verdict as Verdict
    from openhpo.study import Best as Best
    from openhpo.study import Study as Study
    from openhpo.training import Trial as Trial
    from openhpo.training import TrialStopped as TrialStopped
    from openhpo.validation import Validated as Validated
    from openhpo.validation import validate as validate

_HOMES = {
    "actors": "Actor ActorFailed Address Message PeerLost WorkDone WorkFailed handles run_actors",
    "callbacks": "Callback MLflow TensorBoard",
    "engines": "ASHA Engine Full Hyperband LearningCurveMatching MedianStopping PopulationBased Request SuccessiveHalving",
    "errors": "UserError",
    "launch": "run run_together",
    "objective": "Maximize Minimize first_step",
    "plan": "Plan",
    "result": "Result load load_together",
    "schedules": "Chain Constant Cosine Cyclic Exponential Linear Polynomial Schedule Steps Switch Warmup",
    "samplers": "GaussianProcess Grid Listed Optuna Random Refinement Sampler Sobol Suggest TPE",
    "hyperparameters": "Categorical Float Integer",
    "space": "Space",
    "stages": "Stage State Verdict",
    "study": "Best Study",
    "training": "Trial TrialStopped",
    "validation": "Validated validate",
}
_NAMES = {name: f"openhpo.{home}" for home, names in _HOMES.items() for name in names.split()}

__all__ = list(_NAMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'openhpo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
