"""Options of passes: declared as fields, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Optional

import pytest
from torch.fx import GraphModule

from hopyard.errors import (
    OptionError,
    PassError,
    PluginError,
    PluginLoadError,
    UnknownNameError,
)
from hopyard.pipeline import Pipeline, options_of, resolve_steps
from hopyard.plugins import Registered
from hopyard_hookspecs import Pass, PassResult, Provider

ACME = Provider("acme", "acme-passes", "1.2")


def leave(graph_module: GraphModule) -> PassResult:
    return PassResult(graph_module, modified=False)


@dataclass(frozen=True)
class Everything:
    must: int
    flag: bool = False
    count: int = 1
    ratio: float = 0.5
    title: str = "x"
    table: Literal["core-aten", "full", 3] = "full"
    limit: int | None = None
    old: Optional[str] = None  # noqa: UP045 - what older code writes
    sizes: tuple[int, ...] = (1,)
    parts: tuple[int | str, ...] | None = None
    either: int | float = 0
    computed: int = field(default=7, init=False)
    shared: ClassVar[int] = 3

    def __call__(self, graph_module: GraphModule) -> PassResult:
        return leave(graph_module)


def resolved(text: str, implementation: Any = Everything) -> Any:
    passes = {"p": Registered(Pass("p", implementation), ACME)}
    return resolve_steps(Pipeline.parse(text), passes)[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flag=true", True),
        ("count=3", 3),
        ("ratio=0.25", 0.25),
        ("ratio=2", 2.0),
        ("title=core-aten", "core-aten"),
        ('title="10"', "10"),
        ("table=core-aten", "core-aten"),
        ("table=3", 3),
        ("limit=none", None),
        ("limit=5", 5),
        ("old=word", "word"),
        ("sizes=[]", ()),
        ("sizes=[1,2]", (1, 2)),
        ("parts=[1,a]", (1, "a")),
        ("parts=none", None),
        ("either=1", 1),
        ("either=1.5", 1.5),
    ],
)
def test_a_value_that_fits_reaches_the_pass(option: str, value: object) -> None:
    bound = resolved(f"p{{must=1,{option}}}")
    name = option.partition("=")[0]
    given = getattr(bound.transform, name)
    assert given == value
    assert type(given) is type(value)
    assert bound.step.options[name] == value


@pytest.mark.parametrize(
    "option",
    [
        "flag=1",
        "flag=True",
        "count=1.0",
        "count=true",
        "ratio=true",
        "ratio=x",
        "ratio=" + "9" * 400,
        "title=10",
        "title=true",
        "table=other",
        "table=3.0",
        "limit=x",
        "sizes=1",
        "sizes=[1,a]",
        "sizes=none",
        "either=true",
    ],
)
def test_a_value_of_another_type_is_refused(option: str) -> None:
    with pytest.raises(OptionError) as caught:
        resolved(f"p{{must=1,{option}}}")
    assert caught.value.plugin == ACME
    assert caught.value.stage == "p"
    name, _, value = option.partition("=")
    assert repr(name) in caught.value.message
    assert caught.value.message.endswith(f"not {value}")


def test_a_number_where_text_is_wanted_is_to_be_quoted() -> None:
    with pytest.raises(OptionError) as caught:
        resolved("p{must=1,title=10}")
    assert 'title="10"' in caught.value.hint


def test_a_misspelt_word_is_answered_with_the_closest() -> None:
    with pytest.raises(OptionError) as caught:
        resolved("p{must=1,table=core-atn}")
    assert caught.value.hint == "did you mean core-aten?"


def test_an_unknown_option_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(OptionError) as caught:
        resolved("p{must=1,cuont=2}")
    assert "'count'" in caught.value.hint
    assert "ratio: float, default 0.5" in caught.value.hint
    assert "must: int, required" in caught.value.hint
    with pytest.raises(OptionError, match="computed"):
        resolved("p{must=1,computed=2}")


def test_a_required_option_must_be_given() -> None:
    with pytest.raises(OptionError) as caught:
        resolved("p{count=2}")
    assert "'must'" in caught.value.message
    assert "int" in caught.value.message


def test_defaults_are_part_of_what_observers_see() -> None:
    options = resolved("p{must=4}").step.options
    assert options["must"] == 4
    assert options["sizes"] == (1,)
    assert "computed" not in options
    assert "shared" not in options


def test_the_options_of_a_pass_can_be_listed() -> None:
    options = {option.name: option for option in options_of(Everything)}
    assert options["must"].required
    assert options["limit"].type_name == "int or none"
    assert options["table"].type_name == "core-aten or full or 3"
    assert options["sizes"].type_name == "a list of int"
    assert str(options["flag"]) == "flag: true or false, default false"
    assert options_of(leave) == ()


def test_a_pass_without_fields_has_no_options() -> None:
    class Plain:
        def __call__(self, graph_module: GraphModule) -> PassResult:
            return leave(graph_module)

    assert callable(resolved("p", Plain).transform)
    assert resolved("p", leave).transform is leave
    configured = Everything(must=5)
    assert resolved("p", configured).transform is configured
    for implementation in (Plain, leave, configured):
        with pytest.raises(OptionError, match="no options"):
            resolved("p{x=1}", implementation)


def test_options_that_the_pass_itself_refuses() -> None:
    @dataclass(frozen=True)
    class Positive:
        factor: float = 1.0

        def __post_init__(self) -> None:
            if self.factor <= 0:
                raise ValueError("factor must be positive")
            if self.factor > 100:
                raise LookupError("no such table")

        def __call__(self, graph_module: GraphModule) -> PassResult:
            return leave(graph_module)

    with pytest.raises(OptionError, match="must be positive") as caught:
        resolved("p{factor=-1}", Positive)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(PassError, match="no such table") as broken:
        resolved("p{factor=101}", Positive)
    assert isinstance(broken.value.__cause__, LookupError)


@dataclass(frozen=True)
class Unfit:
    table: dict[str, int] = field(default_factory=dict)

    def __call__(self, graph_module: GraphModule) -> PassResult:
        return leave(graph_module)


@dataclass(frozen=True)
class Nested:
    table: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Misspelt:
    table: Missing = 1  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True)
class Uncallable:
    count: int = 1


@pytest.mark.parametrize("implementation", [Unfit, Nested, Misspelt, Uncallable, 3])
def test_a_pass_that_is_declared_wrongly_is_its_plugins_fault(implementation: object) -> None:
    with pytest.raises(PluginError) as caught:
        resolved("p", implementation)
    assert caught.value.plugin == ACME
    assert caught.value.stage == "p"


def test_a_reference_is_imported_when_the_pass_is_used() -> None:
    bound = resolved("p", "copy:copy")
    assert bound.transform.__module__ == "copy"
    with pytest.raises(PluginLoadError):
        resolved("p", "hopyard_nowhere.passes:Fold")


def test_an_unknown_pass_is_answered_with_the_closest() -> None:
    passes = {"fold-scale": Registered(Pass("fold-scale", leave), ACME)}
    with pytest.raises(UnknownNameError) as caught:
        resolve_steps(Pipeline.parse("fold_scale"), passes)
    assert caught.value.kind == "pass"
    assert caught.value.valid == ("fold-scale",)
    assert caught.value.closest == "fold-scale"


def test_each_occurrence_of_a_pass_is_an_instance_of_its_own() -> None:
    passes = {"p": Registered(Pass("p", Everything), ACME)}
    first, second = resolve_steps(Pipeline.parse("p{must=1},p{must=1}"), passes)
    assert first.transform is not second.transform
    assert (first.step.index, second.step.index) == (0, 1)
