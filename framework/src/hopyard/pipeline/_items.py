"""What a pipeline consists of: passes, and groups of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final, TypeAlias

from hopyard.errors import OptionError, UnknownNameError, UsageError

from ._text import Item as WrittenItem
from ._text import Value, freeze, is_name, write_item


class _Written:
    """Two items are equal if their text is: 1, 1.0 and true are different values of an option."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, _Written) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))


@dataclass(frozen=True, slots=True, eq=False)
class Step(_Written):
    """A pass of a pipeline by name, with the options that are set.

    Attributes:
        name: The name of the pass.
        options: Values by option; read-only. What text cannot give is refused.
        enabled: Whether it runs; one that does not keeps its place.

    Raises:
        UsageError: The name is none that text could give.
        OptionError: An option's name or value is none that text could give.
    """

    name: str
    options: Mapping[str, Value] = field(default_factory=dict)
    enabled: bool = True

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a pass", hint="a name is letters and hyphens"
            )
        options = {option: self._frozen(option, self.options[option]) for option in self.options}
        object.__setattr__(self, "options", MappingProxyType(options))

    def __str__(self) -> str:
        return write_item(self.name, self.options, enabled=self.enabled)

    def __reduce__(self) -> tuple[type[Step], tuple[str, dict[str, Value], bool]]:
        return Step, (self.name, dict(self.options), self.enabled)

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


@dataclass(frozen=True, slots=True, eq=False)
class Repeat(_Written):
    """Passes that run again and again until a whole round of them changes nothing.

    Attributes:
        steps: The passes of a round.
        most: The greatest number of rounds. If the last of them still changed something, the
            pipeline fails, unless `settle` is false.
        settle: Whether an end within `most` rounds is demanded.
        enabled: Whether the group runs.

    Raises:
        UsageError: `steps` are not items.
        OptionError: `most` is no positive integer, or `settle` no truth value.
    """

    NAME: ClassVar[str] = "repeat"

    steps: tuple[Item, ...]
    most: int = 10
    settle: bool = True
    enabled: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", checked(self.steps))
        if type(self.most) is not int or self.most < 1:
            raise OptionError(f"repeat runs at least 1 round, not {self.most!r}", stage=self.NAME)
        if type(self.settle) is not bool:
            raise OptionError(f"settle is true or false, not {self.settle!r}", stage=self.NAME)

    @property
    def options(self) -> Mapping[str, Value]:
        """The options that differ from their defaults."""
        options: dict[str, Value] = {} if self.most == 10 else {"most": self.most}
        return options if self.settle else {**options, "settle": False}

    def __str__(self) -> str:
        return write_item(self.NAME, self.options, written(self.steps), enabled=self.enabled)


@dataclass(frozen=True, slots=True, eq=False)
class Regions(_Written):
    """Passes that run on the bodies of higher-order operators only, innermost bodies first.

    Attributes:
        steps: The passes.
        of: Names of the operators whose bodies are meant, for example `("cond", "while_loop")`;
            none means those of all.
        enabled: Whether the group runs.

    Raises:
        UsageError: `steps` are not items.
        OptionError: `of` is no sequence of names.
    """

    NAME: ClassVar[str] = "regions"

    steps: tuple[Item, ...]
    of: tuple[str, ...] = ()
    enabled: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", checked(self.steps))
        given: object = self.of
        names = (given,) if isinstance(given, str) else given
        if not isinstance(names, (list, tuple)) or not all(type(name) is str for name in names):
            raise OptionError(f"of names operators, not {self.of!r}", stage=self.NAME)
        object.__setattr__(self, "of", tuple(names))

    @property
    def options(self) -> Mapping[str, Value]:
        """The options that differ from their defaults."""
        return {"of": self.of} if self.of else {}

    def __str__(self) -> str:
        return write_item(self.NAME, self.options, written(self.steps), enabled=self.enabled)


Item: TypeAlias = Step | Repeat | Regions

_GROUPS: Final[Mapping[str, Callable[..., Repeat | Regions]]] = {
    Repeat.NAME: Repeat,
    Regions.NAME: Regions,
}


def group(
    name: str, steps: tuple[Item, ...], options: Mapping[str, Value], *, enabled: bool
) -> Repeat | Regions:
    """Return the group that text calls `name`.

    Raises:
        UnknownNameError: There is no such group.
        OptionError: It does not take the options.
    """
    kind = _GROUPS.get(name)
    if kind is None:
        raise UnknownNameError("group of passes", name, _GROUPS)
    try:
        return kind(steps, **options, enabled=enabled)
    except TypeError as cause:
        raise OptionError(
            f"{name} does not take the options {', '.join(options)}",
            hint="repeat has most and settle, regions has of",
            stage=name,
        ) from cause


def from_written(items: Iterable[WrittenItem]) -> tuple[Item, ...]:
    """Return the items that text stands for."""
    return tuple(
        Step(item.name, item.options, item.enabled)
        if item.body is None
        else group(item.name, from_written(item.body), item.options, enabled=item.enabled)
        for item in items
    )


def written(items: Iterable[Item]) -> str:
    """Return the text of items."""
    return ",".join(map(str, items))


def passes_of(items: Iterable[Item]) -> Iterator[Step]:
    """Yield the passes among items and in their groups, in order."""
    for item in items:
        if isinstance(item, Step):
            yield item
        else:
            yield from passes_of(item.steps)


def checked(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return items as a tuple.

    Raises:
        UsageError: There is something else among them.
    """
    result = tuple(items)
    for item in result:
        if not isinstance(item, (Step, Repeat, Regions)):
            raise UsageError(
                f"a pipeline consists of steps, not of {item!r}",
                hint='write Pipeline.parse("decompose,dce"), or Step("dce")',
                stage="pipeline",
            )
    return result
