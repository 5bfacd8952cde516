"""Pipelines: which passes run, in which order, with which options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from hopyard.errors import UnknownNameError

from ._items import Item, Step, checked, from_written, passes_of, written
from ._text import parse
from ._toml import read_toml, write_toml


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An immutable sequence of passes and groups of passes, with their options.

    Whether the passes exist, take the options and may follow each other is found out when the
    pipeline meets a session. ::

        pipeline = Pipeline.parse("decompose{table=core-aten},repeat(cse,dce)")
        str(pipeline.insert_after("decompose", "fold-scale", factor=10).disable("cse"))
        # decompose{table=core-aten},fold-scale{factor=10},repeat(!cse,dce)

    Attributes:
        steps: The passes and groups in the order in which they run.

    Raises:
        UsageError: `steps` are something else.
    """

    steps: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", checked(self.steps))

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Read pipeline text; `Pipeline.parse(str(pipeline)) == pipeline` for every pipeline.

        Raises:
            PipelineSyntaxError: The text does not parse.
            UnknownNameError: There is no such kind of group.
            OptionError: A group does not take its options.
        """
        return cls(from_written(parse(text)))

    @classmethod
    def from_toml(cls, text: str) -> Pipeline:
        """Read a pipeline from TOML, as :meth:`to_toml` writes it.

        Raises:
            UsageError: The text is no TOML, or describes something else than a pipeline.
        """
        return cls(read_toml(text))

    def to_toml(self) -> str:
        """Return the pipeline as TOML; `Pipeline.from_toml(pipeline.to_toml()) == pipeline`.

        Raises:
            UsageError: A text among the options has half of a surrogate pair, which TOML has not.
        """
        return write_toml(self.steps)

    @property
    def passes(self) -> tuple[Step, ...]:
        """The passes, those in groups and those that are switched off included, in order."""
        return tuple(passes_of(self.steps))

    def append(self, name: str, /, **options: Any) -> Pipeline:
        """Return this pipeline with one more pass at its end."""
        return Pipeline((*self.steps, Step(name, options)))

    def insert_before(self, place: str, new: str | Pipeline, /, **options: Any) -> Pipeline:
        """Return this pipeline with more passes before the first pass named `place`.

        Args:
            place: The name of a pass of this pipeline; the new passes share its group.
            new: A pass by name, or all the passes of a pipeline.
            options: Options of the pass `new`.

        Raises:
            UnknownNameError: This pipeline has no such pass.
        """
        steps = _new(new, options)
        first = self._found(place)[0]
        return self._edited(lambda step: (*steps, step) if step is first else (step,))

    def insert_after(self, place: str, new: str | Pipeline, /, **options: Any) -> Pipeline:
        """Return this pipeline with more passes after the last pass named `place`.

        Takes and raises what :meth:`insert_before` does.
        """
        steps = _new(new, options)
        last = self._found(place)[-1]
        return self._edited(lambda step: (step, *steps) if step is last else (step,))

    def replace(self, place: str, new: str | Pipeline, /, **options: Any) -> Pipeline:
        """Return this pipeline with other passes instead of every pass named `place`.

        Takes and raises what :meth:`insert_before` does.
        """
        steps = _new(new, options)
        self._found(place)
        return self._edited(lambda step: steps if step.name == place else (step,))

    def without(self, name: str, /) -> Pipeline:
        """Return this pipeline without the passes of a name; groups that lose all steps go too.

        Raises:
            UnknownNameError: This pipeline has no such pass.
        """
        self._found(name)
        return self._edited(lambda step: () if step.name == name else (step,))

    def disable(self, name: str, /) -> Pipeline:
        """Return this pipeline with the passes of a name switched off; they keep their places.

        Raises:
            UnknownNameError: This pipeline has no such pass.
        """
        return self._switched(name, enabled=False)

    def enable(self, name: str, /) -> Pipeline:
        """Return this pipeline with the passes of a name switched on.

        Raises:
            UnknownNameError: This pipeline has no such pass.
        """
        return self._switched(name, enabled=True)

    def _switched(self, name: str, *, enabled: bool) -> Pipeline:
        self._found(name)
        return self._edited(
            lambda step: (replace(step, enabled=enabled) if step.name == name else step,)
        )

    def _found(self, name: str) -> list[Step]:
        found = [step for step in self.passes if step.name == name]
        if not found:
            raise UnknownNameError("pass in the pipeline", name, {s.name for s in self.passes})
        return found

    def _edited(self, edit: Callable[[Step], Iterable[Item]]) -> Pipeline:
        return Pipeline(tuple(_edit(self.steps, edit)))

    def __add__(self, other: Pipeline) -> Pipeline:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return Pipeline(self.steps + other.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        return written(self.steps)


def _new(new: str | Pipeline, options: dict[str, Any]) -> tuple[Item, ...]:
    return (Step(new, options),) if isinstance(new, str) else new.steps


def _edit(items: Iterable[Item], edit: Callable[[Step], Iterable[Item]]) -> list[Item]:
    edited: list[Item] = []
    for item in items:
        if isinstance(item, Step):
            edited += edit(item)
            continue
        steps = tuple(_edit(item.steps, edit))
        if steps or not item.steps:
            edited.append(replace(item, steps=steps))
    return edited
