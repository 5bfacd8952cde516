"""What is seen of passes: listings of graphs, their differences, files, reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from hopyard.errors import PassError, PluginError, UsageError
from hopyard.pipeline import GraphDumps, graph_diff, listing
from hopyard.program import Program
from hopyard.session import Session
from hopyard_hookspecs import PassResult, hookimpl

if TYPE_CHECKING:
    from conftest import MakeSession

aten = torch.ops.aten


class Branching(torch.nn.Module):
    def forward(self, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.cond(x.sum() > 0, lambda y: y.relu(), lambda y: y * 2.0, (x,))
        return chosen.to(torch.float64), x.split(sizes)[0]


@pytest.fixture(scope="module")
def program() -> Program:
    with torch.no_grad():
        return Session(discover=False).capture(Branching(), (torch.randn(3, 4), [1, 2]))


def relu_to_sin(graph_module: GraphModule) -> PassResult:
    for child in graph_module.modules():
        if isinstance(child, GraphModule):
            for node in child.graph.find_nodes(op="call_function", target=aten.relu.default):
                node.target = aten.sin.default
    return PassResult(graph_module, modified=True)


def keep(graph_module: GraphModule) -> PassResult:
    return PassResult(graph_module, modified=False)


def spoil(graph_module: GraphModule) -> PassResult:
    graph_module.graph.output_node().args = ()
    return PassResult(graph_module, modified=True)


def crash(graph_module: GraphModule) -> PassResult:
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.sum.default):
        node.target = aten.mean.default
        raise LookupError("no table")
    raise AssertionError


def test_a_listing_shows_what_a_graph_does(program: Program) -> None:
    text = listing(program.graph_module)
    assert "%x: float32[3, 4] = input" in text
    assert "%sum_1: float32[] = aten.sum.default(%x)  # test_dumps.py:" in text
    assert "dtype=float64)" in text
    assert "region true_graph_0:" in text
    assert "operator.getitem(%split_with_sizes, 0)" in text
    plain = listing(program.graph_module, comments=False)
    assert "#" not in plain
    assert plain == listing(program.graph_module, comments=False)


def test_a_difference_shows_lines_and_who_made_them(
    program: Program, make_session: MakeSession
) -> None:
    after = make_session(swap=relu_to_sin).run("swap", program).program
    text = graph_diff(program.graph_module, after.graph_module)
    removed = [line for line in text.splitlines() if line.startswith("-")]
    added = [line for line in text.splitlines() if line.startswith("+")]
    assert ["aten.relu.default" in line for line in removed] == [True]
    assert ["swap [acme-passes 1.2] from relu" in line for line in added] == [True]
    assert graph_diff(program.graph_module, program.graph_module) == ""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("before", ["000-keep-before.txt", "001-swap-before.txt"]),
        (["after"], ["000-keep-after.txt", "001-swap-after.txt"]),
        (["change"], ["001-swap-after.txt", "001-swap-diff.txt"]),
        (["failure"], []),
    ],
)
def test_graphs_are_written_when_asked(
    when: Any, expected: list[str], program: Program, make_session: MakeSession, tmp_path: Path
) -> None:
    session = make_session(keep=keep, swap=relu_to_sin)
    session.run("keep,swap", program, observers=[GraphDumps(tmp_path, when)])
    assert files(tmp_path) == expected
    for name in expected:
        text = (tmp_path / name).read_text()
        assert ("aten.sin.default" in text) == ("001" in name and "before" not in name)


@pytest.mark.parametrize(("edit", "seen"), [(spoil, "return none"), (crash, "aten.mean.default")])
def test_the_graph_of_a_pass_that_fails_is_written(
    edit: Any, seen: str, program: Program, make_session: MakeSession, tmp_path: Path
) -> None:
    before = listing(program.graph_module)
    with pytest.raises(PassError) as caught:
        make_session(bad=edit).run("bad", program, observers=[GraphDumps(tmp_path / "new")])
    folder = tmp_path / "new"
    assert files(folder) == ["000-bad-diff.txt", "000-bad-failed.txt", "000-bad-given.txt"]
    failed = (folder / "000-bad-failed.txt").read_text()
    assert seen.lower() in failed.lower()
    assert caught.value.message.splitlines()[0] in failed
    assert caught.value.graph in failed
    assert seen.lower() in caught.value.graph.lower()
    assert (folder / "000-bad-given.txt").read_text() == f"{before}\n"
    assert listing(program.graph_module) == before


def test_a_graph_that_cannot_be_shown_hides_no_error(
    program: Program, make_session: MakeSession, tmp_path: Path
) -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise LookupError("no name")

    def break_it(graph_module: GraphModule) -> PassResult:
        next(iter(graph_module.graph.nodes)).meta["val"] = [Unprintable()]
        for node in graph_module.graph.find_nodes(op="call_function", target=aten.sum.default):
            node.kwargs = {"dtype": Unprintable}
            node.args = (*node.args, Unprintable())
        raise ValueError("the pass's own")

    with pytest.raises(PassError, match="the pass's own") as caught:
        make_session(bad=break_it).run("bad", program, observers=[GraphDumps(tmp_path)])
    assert caught.value.graph == ""
    assert any("cannot be shown" in note for note in caught.value.__notes__)


def test_names_of_files_tell_round_and_region(
    program: Program, make_session: MakeSession, tmp_path: Path
) -> None:
    session = make_session(keep=keep)
    session.run(
        "regions{of=cond}(keep),repeat{most=2,settle=false}(keep)",
        program,
        observers=[GraphDumps(tmp_path, ["after"])],
    )
    assert files(tmp_path) == [
        "000-keep-in-false_graph_0-after.txt",
        "001-keep-in-true_graph_0-after.txt",
        "002-keep-after.txt",
    ]


def test_a_moment_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="befor") as caught:
        GraphDumps(tmp_path, ["befor"])  # type: ignore[list-item]
    assert "'before'" in caught.value.hint


def test_an_observer_of_one_run_is_an_observer(program: Program, make_session: MakeSession) -> None:
    class Failing:
        @hookimpl
        def hopyard_after_failed_pass(self) -> None:
            raise OSError("disk full")

    with pytest.raises(PassError) as caught:
        make_session(bad=crash).run("bad", program, observers=[Failing()])
    assert any("disk full" in note for note in caught.value.__notes__)

    class Misspelt:
        @hookimpl
        def hopyard_before_passes(self) -> None: ...

    with pytest.raises(PluginError):
        make_session(keep=keep).run("keep", program, observers=[Misspelt()])


def test_a_report_has_a_line_for_each_run_of_a_pass(
    program: Program, make_session: MakeSession
) -> None:
    session = make_session(keep=keep, swap=relu_to_sin)
    lines = session.run("swap,repeat(keep)", program).report().splitlines()
    assert lines[0].split()[:3] == ["PASS", "NODES", "CHANGED"]
    assert [line.split()[0] for line in lines[1:]] == ["swap", "keep"]
    assert "acme [acme-passes 1.2]" in lines[1]
    assert " yes " in lines[1]
    assert " no " in lines[2]
