"""A few of the graphs that `make sweep-passes` runs every pass on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

# torch's own samples of inputs need it.
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

import sweep_passes
from pass_behaviours import BEHAVIOURS
from pass_programs import PROGRAMS
from torch.fx import GraphModule

pytestmark = pytest.mark.filterwarnings("ignore")

PAIRS = [
    *((name, "small, captured") for name in BEHAVIOURS),
    ("Identity", "data"),
    ("Numbers", "sizes"),
    ("Branches", "condition"),
    ("SwappedBranches", "condition"),
    ("NewSubmodule", "condition"),
    ("OtherType", "in place"),
    ("OtherType", "small, dynamic"),
    ("InsertWithMetadata", "training"),
    ("MoreOperators", "quantized"),
]


@pytest.fixture(scope="module")
def graphs() -> Callable[[str], GraphModule]:
    """Return what makes a graph, once."""
    made: dict[str, GraphModule] = {}

    def graph(name: str) -> GraphModule:
        if name not in made:
            made[name] = PROGRAMS[name]()
        return made[name]

    return graph


@pytest.mark.parametrize(("name", "program"), PAIRS)
def test_a_pass_makes_what_it_makes_on_torch_s_base(
    name: str, program: str, graphs: Callable[[str], GraphModule]
) -> None:
    problem = sweep_passes.compared(BEHAVIOURS[name], graphs(program))
    assert not problem, f"{name} on {program}: {problem}"


def test_a_difference_is_noticed(graphs: Callable[[str], GraphModule]) -> None:
    ours = sweep_passes.run(
        BEHAVIOURS["OtherType"], sweep_passes.ExportPass, lambda: graphs("small")
    )
    theirs = sweep_passes.run(
        BEHAVIOURS["Identity"], sweep_passes.TorchPass, lambda: graphs("small")
    )
    assert isinstance(ours, GraphModule)
    assert isinstance(theirs, GraphModule)
    assert sweep_passes.difference(ours, theirs)
