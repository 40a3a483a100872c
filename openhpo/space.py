"""What may be tried: hyperparameters with their ranges, conditions and forbidden combinations, on ConfigSpace.

ConfigSpace is imported at the first decision only: trainers never need it, and it takes a second to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from openhpo.course import Course
from openhpo.errors import UserError, meant
from openhpo.hyperparameters import Categorical, Config, Float, Hyperparameter, Integer, Value
from openhpo.schedules import FROM_NAME, Chain, Schedule

if TYPE_CHECKING:
    import numpy
    from ConfigSpace import ConfigurationSpace

ATTEMPTS = 10_000  # draws of a configuration that is not forbidden, before giving up


class Space:
    """The set of configurations.

    Args:
        hyperparameters: By name, each a `Float`, `Integer`, `Categorical`, a schedule such as `Cosine(...)`, or a plain value
            that is the same in every configuration. Or a ConfigSpace `ConfigurationSpace`, which is taken as it is.
            Parameters of a schedule that are hyperparameters are searched under dotted names, such as "lr.factor"; these, and
            what schedules refer to by name, are not seen by training, which gets the schedule's value.
        conditions: By name of a hyperparameter, when it is active: {"momentum": "optimizer == 'sgd'"}. An inactive one is
            absent from the configuration.
        forbidden: Combinations that are never tried, each such as "optimizer == 'sgd' and width > 128".

    Raises:
        UserError: No configuration is possible, or a condition does not make sense.
    """

    def __init__(
        self,
        hyperparameters: Mapping[str, Hyperparameter | Schedule | Value] | ConfigurationSpace,
        *,
        conditions: Mapping[str, str] | None = None,
        forbidden: Sequence[str] = (),
    ) -> None:
        self.conditions = dict(conditions or {})
        self.forbidden = (forbidden,) if isinstance(forbidden, str) else tuple(forbidden)
        self.hyperparameters: dict[str, Hyperparameter] = {}
        self.fixed: Config = {}
        self.schedules: dict[str, Schedule] = {}
        self._given: ConfigurationSpace | None = None
        if not isinstance(hyperparameters, Mapping) or hasattr(hyperparameters, "sample_configuration"):
            self._take_configspace(hyperparameters)
            return
        for name, item in hyperparameters.items():
            self._take(name, item)
        if not self.hyperparameters and not self.fixed and not self.schedules:
            raise UserError("the space is empty: it needs at least one hyperparameter")
        self._check_references()
        for name in self.conditions:
            if name not in self.hyperparameters:
                raise UserError(
                    f"there is a condition for {name!r}, but no such hyperparameter.{meant(name, self.hyperparameters)}"
                )

    def _take(self, name: str, item: Any) -> None:
        if isinstance(item, Float | Integer | Categorical | Schedule):
            try:
                item.check()
            except UserError as error:
                raise UserError(f"hyperparameter {name!r}: {error}") from None
        if isinstance(item, Float | Integer | Categorical):
            self.hyperparameters[name] = item
        elif isinstance(item, Schedule):
            self.schedules[name] = item
            for parameter, inner in item.parameters(name).items():
                self._take(parameter, inner)
        elif isinstance(item, bool | int | float | str):
            self.fixed[name] = item
        else:
            raise UserError(f"hyperparameter {name!r}: {item!r} is no Float, Integer, Categorical, schedule or plain value")

    def _check_references(self) -> None:
        for name, schedule in self.schedules.items():
            for parameter, expression in schedule.references(name).items():
                for wanted in expression.names:
                    if wanted not in self.names:
                        raise UserError(
                            f"the schedule parameter {parameter!r} refers to {wanted!r}, but there is no such hyperparameter."
                            f"{meant(wanted, self.names)}"
                        )

    def _take_configspace(self, given: Any) -> None:
        from openhpo.configspace import hyperparameters_of

        self._given = given
        self.hyperparameters, self.fixed = hyperparameters_of(given)

    @property
    def names(self) -> tuple[str, ...]:
        """All hyperparameters, fixed ones included."""
        return (*self.hyperparameters, *(name for name in self.fixed if name not in self.hyperparameters))

    @property
    def free(self) -> tuple[str, ...]:
        """The hyperparameters that are searched, in the order they were given."""
        return tuple(name for name in self.hyperparameters if name not in self.fixed)

    def fix(self, values: Mapping[str, Any]) -> Space:
        """This space with some hyperparameters fixed.

        Raises:
            UserError: There is no such hyperparameter, or it may not have that value.
        """
        fixed = Space.__new__(Space)
        fixed.__dict__.update(self.__dict__, fixed={**self.fixed, **values})
        fixed.__dict__.pop("_hidden", None)
        for name in [name for name in values if name in self.schedules]:
            fixed._replace_schedule(name)
        for name, value in values.items():
            if name in self.schedules:
                continue
            if name not in self.names:
                raise UserError(
                    f"there is no hyperparameter {name!r}; there are {', '.join(self.names)}.{meant(name, self.names)}"
                )
            if name in self.hyperparameters and not self.rules.legal(name, value):
                raise UserError(f"{name} cannot be {value!r}: it is {self.hyperparameters[name]}")
        return fixed

    def within(self, bounds: Mapping[str, tuple[Any, Any]]) -> Space:
        """This space with other ranges.

        Args:
            bounds: By hyperparameter, the first and the last value: of a Float or Integer any, of an ordered Categorical two
                of its choices.

        Raises:
            UserError: The ranges of a ConfigSpace space are its own.
        """
        if self._given is not None:
            raise UserError("the ranges of a ConfigSpace space cannot be moved: describe it as an hpo.Space")
        other = Space.__new__(Space)
        items = {
            name: self._ranged(name, *bounds[name]) if name in bounds else item for name, item in self.hyperparameters.items()
        }
        other.__dict__.update(self.__dict__, hyperparameters=items)
        other.__dict__.pop("rules", None)
        return other

    def _ranged(self, name: str, low: Any, high: Any) -> Hyperparameter:
        item = self.hyperparameters[name]
        if isinstance(item, Categorical):
            choices = list(item.choices)
            return Categorical(choices[choices.index(low) : choices.index(high) + 1], item.ordered)
        return type(item)((low, high), item.log)

    def _replace_schedule(self, name: str) -> None:
        """Make room for a plain value of that name."""
        parameters = self.schedules[name].parameters(name)
        self.schedules = {other: schedule for other, schedule in self.schedules.items() if other != name}
        self.hyperparameters = {other: item for other, item in self.hyperparameters.items() if other not in parameters}
        self.conditions = {child: text for child, text in self.conditions.items() if child not in parameters}
        self.__dict__.pop("rules", None)

    @cached_property
    def _hidden(self) -> frozenset[str]:
        """The hyperparameters that only say how a schedule goes."""
        hidden: set[str] = set()
        for name, schedule in self.schedules.items():
            hidden.update(schedule.parameters(name))
            hidden.update(*(expression.names for expression in schedule.references(name).values()))
        return frozenset(hidden)

    def course(self, config: Config, identity: Any = 0) -> Course:
        """A configuration as a sequence over the steps.

        Args:
            config: As a sampler gives it.
            identity: What else tells computations apart: the seed.

        Raises:
            UserError: A schedule's parameters make no sense together.
        """
        if not self.schedules:
            return Course(config, config, {}, identity)
        constants = {name: value for name, value in config.items() if name not in self._hidden}
        schedules = {}
        for name, schedule in self.schedules.items():
            try:
                schedules[name] = schedule.resolve(name, config)
            except KeyError:
                continue  # its parameters are inactive here, so it is
        return Course(config, constants, schedules, identity)

    @cached_property
    def rules(self) -> Any:
        """ConfigSpace's view of this space: values, activity, forbidden combinations."""
        from openhpo.configspace import Rules

        return Rules(self.hyperparameters, self.conditions, self.forbidden, self._given)

    def configuration(self, values: Mapping[str, Any]) -> Config | None:
        """Complete values of the free hyperparameters to a configuration.

        Args:
            values: At least those of the active ones.

        Returns:
            The active hyperparameters and the fixed values, or None where the combination is forbidden.
        """
        config: Config = self.rules.active({**values, **self.fixed})
        if self.rules.forbids(config):
            return None
        return {
            name: config[name] if name in config else self.fixed[name]
            for name in self.names
            if name in config or name not in self.hyperparameters
        }

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether that is a configuration of this space."""
        free = [name for name in config if name in self.hyperparameters and name not in self.fixed]
        if not all(self.rules.legal(name, config[name]) for name in free):
            return False
        try:
            return self.configuration(config) == config
        except KeyError:  # one that is active is not there
            return False

    def from_unit(self, point: Sequence[float]) -> Config | None:
        """The configuration at a point of the unit cube, one coordinate a free hyperparameter; None where forbidden."""
        return self.configuration({name: self.rules.value(name, u) for name, u in zip(self.free, point, strict=True)})

    def sample(self, rng: numpy.random.Generator) -> Config:
        """A random configuration.

        Raises:
            UserError: Practically every configuration is forbidden.
        """
        for _ in range(ATTEMPTS):
            config = self.from_unit(rng.random(len(self.free)).tolist())
            if config is not None:
                return config
        raise UserError(f"of {ATTEMPTS:,} random configurations every one was forbidden; loosen {list(self.forbidden)}")

    def definition(self) -> dict[str, Any]:
        """What identifies this space, in plain JSON."""
        described = {
            name: {
                "type": type(item).__name__,
                **{key: list(v) if isinstance(v, tuple | list) else v for key, v in vars(item).items()},
            }
            for name, item in self.hyperparameters.items()
        }
        return {
            "hyperparameters": described,
            "schedules": {name: schedule.definition() for name, schedule in self.schedules.items()},
            "fixed": self.fixed,
            "conditions": self.conditions,
            "forbidden": list(self.forbidden),
            **({"configspace": self._given.to_serialized_dict()} if self._given is not None else {}),
        }

    @staticmethod
    def from_definition(definition: Mapping[str, Any]) -> Space:
        """The space that `definition` describes.

        Raises:
            UserError: It has a schedule that is not known here.
        """
        if "configspace" in definition:
            from ConfigSpace import ConfigurationSpace

            space = Space(ConfigurationSpace.from_serialized_dict(definition["configspace"]))
            return space.fix({name: value for name, value in definition["fixed"].items() if name not in space.fixed})
        free = {name: _hyperparameter(described) for name, described in definition["hyperparameters"].items()}
        schedules = {name: _schedule(name, described, free) for name, described in definition["schedules"].items()}
        owner = {parameter: name for name, schedule in schedules.items() for parameter in schedule.parameters(name)}
        given: dict[str, Any] = {}  # in the order that it was given in
        for name, item in free.items():
            given[owner.get(name, name)] = schedules[owner[name]] if name in owner else item
        given |= schedules
        given |= {name: value for name, value in definition["fixed"].items() if name not in free}
        space = Space(given, conditions=definition["conditions"], forbidden=definition["forbidden"])
        return space.fix({name: value for name, value in definition["fixed"].items() if name in free})


KINDS: dict[str, Callable[..., Hyperparameter]] = {kind.__name__: kind for kind in (Float, Integer, Categorical)}


def _hyperparameter(described: dict[str, Any]) -> Hyperparameter:
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in described.items() if name != "type"}
    return KINDS[described["type"]](**values)


def _schedule(path: str, described: dict[str, Any], free: dict[str, Hyperparameter]) -> Schedule:
    kind = FROM_NAME.get(described["type"])
    if kind is None:
        raise UserError(
            f"the schedule of {path!r} is a {described['type']}, which is not openhpo's: it cannot be made from a study file"
        )
    if kind is Chain:
        return Chain(*(_schedule(f"{path}.{place}", part, free) for place, part in enumerate(described["parts"])))
    return kind(**{name: _parameter(f"{path}.{name}", item, free) for name, item in described.items() if name != "type"})


def _parameter(path: str, item: Any, free: dict[str, Hyperparameter]) -> Any:
    if isinstance(item, list):
        return tuple(_parameter(f"{path}.{place}", inner, free) for place, inner in enumerate(item))
    if isinstance(item, dict):
        return free[path] if path in free else _schedule(path, item, free)
    return item
