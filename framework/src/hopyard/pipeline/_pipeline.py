"""Pipelines: which passes run, in which order, with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hopyard.errors import OptionError, PluginError, UnknownNameError, UsageError
from hopyard.plugins import Registered, distribution_for, resolve
from hopyard_hookspecs import Pass, PassKind, PassStep

from ._options import construct
from ._text import Value, freeze, is_name, parse, write, write_pass


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A pass of a pipeline by name, with the options that are set.

    Two steps are equal if their text is: 1, 1.0 and true are different values.

    Attributes:
        name: The name of the pass.
        options: Values by option; read-only. What text cannot give is refused.

    Raises:
        UsageError: The name is none that text could give.
        OptionError: An option's name or value is none that text could give.
    """

    name: str
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a pass", hint="a name is letters and hyphens"
            )
        options = {option: self._frozen(option, self.options[option]) for option in self.options}
        object.__setattr__(self, "options", MappingProxyType(options))

    def __str__(self) -> str:
        return write_pass(self.name, self.options)

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, Step) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[type[Step], tuple[str, dict[str, Value]]]:
        return Step, (self.name, dict(self.options))

    def _frozen(self, option: str, value: object) -> Value:
        if not is_name(option):
            raise OptionError(f"{option!r} cannot be the name of an option", stage=self.name)
        try:
            return freeze(value)
        except TypeError as cause:
            raise OptionError(
                f"option {option!r} of pass {self.name!r} cannot be part of a pipeline: {cause}",
                stage=self.name,
            ) from cause


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An immutable sequence of passes with their options.

    Whether the passes exist and take the options is found out when the pipeline meets a session.
    ::

        pipeline = Pipeline.parse("decompose{table=core-aten},dce")
        str(pipeline.append("fold-scale", factor=10))
        # decompose{table=core-aten},dce,fold-scale{factor=10}

    Attributes:
        steps: The passes in the order in which they run.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Read pipeline text; `Pipeline.parse(str(pipeline)) == pipeline` for every pipeline.

        Raises:
            PipelineSyntaxError: The text does not parse.
        """
        return cls(tuple(Step(name, options) for name, options in parse(text)))

    def append(self, name: str, /, **options: Any) -> Pipeline:
        """Return this pipeline with one more pass at its end."""
        return Pipeline((*self.steps, Step(name, options)))

    def __add__(self, other: Pipeline) -> Pipeline:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return Pipeline(self.steps + other.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        return write((step.name, step.options) for step in self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class BoundPass:
    """A pass with its options set, ready to run.

    Attributes:
        step: What observers are told: position, name, all options, who registered it.
        kind: Whether it transforms a graph module or a program.
        transform: The pass itself.
    """

    step: PassStep
    kind: PassKind
    transform: Callable[..., Any]


def resolve_steps(
    pipeline: Pipeline, passes: Mapping[str, Registered[Pass]]
) -> tuple[BoundPass, ...]:
    """Find and construct the passes of a pipeline, each occurrence anew.

    Args:
        pipeline: What to run.
        passes: The passes there are, by name.

    Raises:
        UnknownNameError: There is no pass of that name; the error says which distribution has it.
        OptionError: A pass does not take the options, or misses one.
        PluginError: A pass cannot be imported, or its implementation is unusable.
        PassError: Constructing a pass raised.
    """
    return tuple(_bind(index, step, passes) for index, step in enumerate(pipeline.steps))


def _bind(index: int, step: Step, passes: Mapping[str, Registered[Pass]]) -> BoundPass:
    registered = passes.get(step.name)
    if registered is None:
        distribution = distribution_for("pass", step.name)
        raise UnknownNameError("pass", step.name, passes, distribution=distribution)
    provider = registered.provider
    implementation = resolve(registered.value.implementation, provider)
    if not callable(implementation):
        raise _unusable(step.name, registered, f"is a {type(implementation).__name__}")
    transform, options = construct(implementation, step.options, step.name, provider)
    if not callable(transform):
        raise _unusable(step.name, registered, f"{type(transform).__name__} has no __call__")
    bound = PassStep(index, step.name, MappingProxyType(options), provider)
    return BoundPass(bound, registered.value.kind, transform)


def _unusable(name: str, registered: Registered[Pass], reason: str) -> PluginError:
    return PluginError(
        f"pass {name!r} cannot be called: its implementation {reason}",
        hint="register a dataclass with __call__, or a function",
        plugin=registered.provider,
        stage=name,
    )
