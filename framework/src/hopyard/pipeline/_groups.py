"""Running passes one after the other, and groups of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch.fx import GraphModule, Node

from hopyard._torch.dispatch import HigherOrderOperator
from hopyard._torch.pytree import tree_leaves
from hopyard.errors import PassError
from hopyard.program import Program
from hopyard.verify import walk_graphs
from hopyard.verify._graphs import attribute
from hopyard_hookspecs import PassRecord

from ._binding import BoundGroup, BoundPass
from ._changes import first_change
from ._execution import Surroundings, execute
from ._items import Regions, Repeat


def run_steps(
    steps: Iterable[BoundPass | BoundGroup],
    program: Program,
    surroundings: Surroundings,
    records: list[PassRecord],
) -> Program:
    """Run passes and groups on a program and return the last program.

    Args:
        steps: What to run.
        program: What to run it on.
        surroundings: Who is told, and which graph of the program is meant.
        records: To be extended by a record of every pass.

    Raises:
        HopyardError: What :func:`execute` raises.
        PassError: A group that is repeated did not come to an end.
    """
    for step in steps:
        if isinstance(step, BoundPass):
            program, record = execute(step, program, surroundings)
            records.append(record)
        elif isinstance(step.group, Repeat):
            program = _repeat(step, step.group, program, surroundings, records)
        else:
            program = _run_in_regions(step, step.group, program, surroundings, records)
    return program


def _repeat(
    step: BoundGroup,
    group: Repeat,
    program: Program,
    surroundings: Surroundings,
    records: list[PassRecord],
) -> Program:
    changed = ""
    for number in range(1, group.most + 1):
        before = program
        start = len(records)
        program = run_steps(step.passes, program, replace(surroundings, round=number), records)
        # What passes say of themselves is not asked: one may undo what another did.
        changed = first_change(before.graph_module, program.graph_module)
        if not changed:
            return program
    if not group.settle:
        return program
    restless = dict.fromkeys(each.step.name for each in records[start:] if each.modified)
    raise PassError(
        f"{group} has not come to an end after {group.most} rounds: in the last of them {changed}, "
        f"by {' or '.join(restless)}",
        hint="look for passes that undo each other, or write settle=false to stop there",
        plugin=_first_pass(step).step.provider,
        stage=Repeat.NAME,
    )


def _run_in_regions(
    step: BoundGroup,
    group: Regions,
    program: Program,
    surroundings: Surroundings,
    records: list[PassRecord],
) -> Program:
    for path in reversed(list(_regions(program.graph_module, surroundings.region, group.of))):
        program = run_steps(step.passes, program, replace(surroundings, region=path), records)
    return program


def _regions(graph_module: GraphModule, inside: str, of: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of the bodies of some operators, in and below a region or the whole graph."""
    prefix = f"{inside}." if inside else ""
    graphs = dict(walk_graphs(graph_module))
    wanted = {
        id(body)
        for path, owner in graphs.items()
        if path == inside or path.startswith(prefix)
        for node in owner.graph.nodes
        for body in _bodies(owner, node, of)
    }
    for path, body in graphs.items():
        if id(body) in wanted:
            yield path


def _bodies(owner: GraphModule, node: Node, of: tuple[str, ...]) -> Iterator[GraphModule]:
    target = node.target
    if not isinstance(target, HigherOrderOperator) or (of and target.name() not in of):
        return
    for argument in tree_leaves((node.args, node.kwargs)):
        if isinstance(argument, Node) and argument.op == "get_attr":
            value = attribute(owner, str(argument.target))
            if isinstance(value, GraphModule):
                yield value


def _first_pass(step: BoundGroup) -> BoundPass:
    first = step.passes[0]
    return first if isinstance(first, BoundPass) else _first_pass(first)
