"""Decomposition tables of plugins reach captures, once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hopyard
from hopyard.errors import DuplicateNameError, PluginError, UnknownNameError
from hopyard.plugins import GivenPlugin
from hopyard_hookspecs import Decompositions, hookimpl

aten = torch.ops.aten


def doubled(x: Tensor) -> Tensor:
    return x + x


def tripled(x: Tensor) -> Tensor:
    return x * 3


class Tables:
    """A plugin with one table, which counts how often it is asked for."""

    def __init__(
        self, name: str, function: Callable[..., Any] = doubled, *, default: bool = False
    ) -> None:
        self.name = name
        self.function = function
        self.default = default
        self.asked = 0

    @hookimpl
    def hopyard_register_decompositions(self) -> Iterator[Decompositions]:
        yield Decompositions(self.name, table=self.table, default=self.default)

    def table(self) -> Any:
        self.asked += 1
        return {aten.sin.default: self.function}


def session_of(*tables: Tables) -> hopyard.Session:
    given = [GivenPlugin(table, table.name) for table in tables]
    return hopyard.Session(discover=False, plugins=given)


def targets(session: hopyard.Session, **options: Any) -> list[Any]:
    def program(x: Tensor) -> Tensor:
        for _ in range(5):
            x = x.sin()
        return x

    graph = session.capture(program, (torch.ones(2),), **options).graph
    return [node.target for node in graph.nodes if node.op == "call_function"]


def test_a_table_is_used_when_it_is_named_and_asked_for_once() -> None:
    table = Tables("doubling")
    session = session_of(table)
    assert set(targets(session)) == {aten.sin.default}
    assert table.asked == 0
    assert set(targets(session, decompositions=["doubling"])) == {aten.add.Tensor}
    assert table.asked == 1


def test_a_default_table_is_always_used_and_a_given_one_counts() -> None:
    session = session_of(Tables("doubling", default=True))
    assert set(targets(session)) == {aten.add.Tensor}
    given = {aten.sin.default: tripled}
    assert set(targets(session, decompositions=given)) == {aten.mul.Tensor}


def test_an_unknown_table_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError) as raised:
        targets(session_of(Tables("doubling")), decompositions=["dubling"])
    assert raised.value.closest == "doubling"


def test_two_tables_for_one_operator_name_both_plugins() -> None:
    session = session_of(Tables("doubling"), Tables("tripling", tripled))
    with pytest.raises(DuplicateNameError) as raised:
        targets(session, decompositions=["doubling", "tripling"])
    assert [each.plugin for each in raised.value.claimants] == ["doubling", "tripling"]
    same = session_of(Tables("one"), Tables("other"))
    assert set(targets(same, decompositions=["one", "other"])) == {aten.add.Tensor}


@pytest.mark.parametrize("table", [lambda: 3, lambda: 1 // 0], ids=["no mapping", "raises"])
def test_a_table_that_cannot_be_made_is_its_plugins_fault(table: Any) -> None:
    tables = Tables("broken")
    tables.table = table  # type: ignore[method-assign]
    with pytest.raises(PluginError) as raised:
        targets(session_of(tables), decompositions=["broken"])
    assert raised.value.plugin.plugin == "broken"
    assert raised.value.stage == "broken"
