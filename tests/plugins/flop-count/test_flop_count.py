"""The mode as users meet it: in a capture and in its report."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hopyard
import hopyard_flop_count
from hopyard.analysis import cost_of
from hopyard_flop_count import _plugin
from hopyard_hookspecs import Hop, Report, hookimpl

PRODUCT = 2 * 4 * 4 * 4
ONES = torch.ones(4, 4)
REGION = Hop("test_flop_count__region")


class Regions:
    @hookimpl
    def hopyard_register_hops(self) -> list[Hop]:
        return [REGION]


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False, plugins=[_plugin, Regions()])


def counted(session: hopyard.Session, function: Any, *args: Any) -> tuple[hopyard.Program, Report]:
    program = session.capture(function, args, modes=["flop-count"])
    return program, program.reports["flop-count"]


def test_the_report_is_what_the_graph_costs(session: hopyard.Session) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    program, report = counted(session, model, torch.ones(2, 1, 4, 4))
    cost = cost_of(program)
    assert report.data["total"]["flops"] == cost.total.flops == 2 * 9 * 2 * 4 * 2 + 2 * 2 * 8 * 3
    assert report.summary == "384 FLOP, 596 B moved"
    assert list(report.lines) == cost.lines()
    by_node = {row["name"]: row["flops"] for row in report.data["nodes"]}
    assert {node.name: flops for node, flops in _flops(cost).items()} == by_node
    assert json.loads(json.dumps(report.data)) == report.data


def _flops(cost: Any) -> dict[Any, Any]:
    return {node: each.flops for node, each in cost.costs_by_node().items()}


def test_the_mode_is_used_when_it_is_asked_for_only(session: hopyard.Session) -> None:
    assert session.capture(torch.relu, (ONES,)).reports == {}


@pytest.mark.parametrize("grad", [False, True])
def test_the_graph_is_as_without_the_mode(session: hopyard.Session, grad: bool) -> None:
    region = session.hop(REGION.name)

    def program(a: Tensor, b: Tensor) -> Any:
        chosen = torch.cond(a.sum() > 0, lambda x: (x @ x,), lambda x: (x + 1,), (a,))[0]
        b.mul_(2)
        return region(lambda x: x @ x, chosen), torch.empty(0).new_ones(3), b.t()

    with torch.set_grad_enabled(grad):
        plain = session.capture(program, (ONES, ONES.clone()))
        mode, report = counted(session, program, ONES, ONES.clone())
    assert mode.print_readable() == plain.print_readable()
    assert report.data["total"]["flops"] == cost_of(plain).total.flops == 2 * PRODUCT
    assert report.data["dropped"] == 0


def test_operations_that_ran_in_vain_are_told(session: hopyard.Session) -> None:
    def program(a: Tensor) -> Tensor:
        a @ a @ a
        return a @ a

    _, report = counted(session, program, ONES)
    assert report.data["total"]["flops"] == PRODUCT
    assert report.data["dropped"] == 2 * PRODUCT
    assert report.lines[-1] == "dropped: 256 FLOP that ran have no effect"


def test_a_report_outlives_passes_and_copies(session: hopyard.Session) -> None:
    import copy

    program, report = counted(session, lambda a: a @ a, ONES)
    assert program.with_graph(program.graph_module).reports == {"flop-count": report}
    assert copy.deepcopy(program).reports == {"flop-count": report}


def test_a_capture_that_fails_leaves_the_mode_behind(session: hopyard.Session) -> None:
    def fails(a: Tensor) -> Tensor:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(hopyard.errors.CaptureError, match="no"):
            counted(session, fails, ONES)
    _, report = counted(session, lambda a: a @ a, ONES)
    assert report.data["total"]["flops"] == PRODUCT


def test_listing_the_mode_does_not_import_torch() -> None:
    code = "import hopyard_flop_count._plugin, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert hopyard_flop_count.FlopCount.supports_higher_order_operators
    with pytest.raises(AttributeError):
        hopyard_flop_count.Nothing  # noqa: B018
