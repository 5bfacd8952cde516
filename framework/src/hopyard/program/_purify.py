"""Programs whose graphs write, as programs of pure graphs."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

from torch import Tensor
from torch.export.graph_signature import ExportGraphSignature, OutputKind, OutputSpec
from torch.fx import Interpreter

from .._graph_copy import copy_graph_module
from .._torch.fake import FakeTensorMode
from .._torch.pytree import tree_map_only
from ..errors import ProgramError, UnsupportedError
from ..replaying import Computation
from ..tracing import TracingOptions, fake_mode_for
from ._aliases import Alias, find_aliases
from ._functionalize import functionalize, written_nodes
from ._lift import split_mutations
from ._operands import MUTATIONS, written_operands
from ._program import Program


def functionalized(program: Program) -> Program:
    """Return a program that computes the same by a graph that writes to no tensor.

    What the graph wrote to inputs and state is returned before its results and written back by
    the call, and results that are operands, or views of them, still are: as in programs that
    Hopyard captured, which are returned as they are.

    Raises:
        ProgramError: A write cannot be expressed so, for example one in the body of a region.
    """
    if next(written_nodes(program.graph_module), None) is None:
        return program
    graph_module = copy_graph_module(program.graph_module)
    values = [node.meta.get("val") for node in graph_module.graph.nodes]
    fake_mode = fake_mode_for([value for value in values if isinstance(value, Tensor)])
    symbolic = fake_mode.shape_env is not None and not fake_mode.static_shapes
    options = TracingOptions("symbolic" if symbolic else "fake", fake_mode, {})
    specs = list(program.signature.input_specs)
    try:
        pure = functionalize(graph_module, options)
        signature = split_mutations(pure, specs, ())
    except UnsupportedError as cause:
        raise ProgramError(
            cause.message, hint=cause.hint, stage="functionalize", location=cause.location
        ) from cause
    twice = set(written_operands(program.signature)) & set(written_operands(signature))
    if twice:
        raise ProgramError(
            f"the program writes {', '.join(sorted(twice))} in place and returns values for it too",
            stage="functionalize",
        )
    aliases = _aliases(program, fake_mode)
    outputs = _outputs(signature.output_specs, program.signature.output_specs)
    return program.replaced(
        graph_module=pure,
        signature=ExportGraphSignature(specs, outputs),
        convention=dataclasses.replace(program.convention, aliases=aliases),
    )


def _aliases(program: Program, fake_mode: FakeTensorMode) -> tuple[Alias, ...]:
    """Return which results of a graph that writes are operands, or views of them."""
    graph_module = program.graph_module
    computation = Computation(fake_mode)
    operands = {
        node.name: tree_map_only(Tensor, computation.alias, node.meta.get("val"))
        for node in graph_module.graph.find_nodes(op="placeholder")
    }
    with ExitStack() as stack:
        if fake_mode.shape_env is not None:
            stack.enter_context(fake_mode.shape_env.ignore_fresh_unbacked_symbols())
        stack.enter_context(computation.surroundings())
        values = Interpreter(graph_module).run(*operands.values(), enable_io_processing=False)
    specs = program.signature.output_specs
    results = [v for v, spec in zip(values, specs, strict=True) if spec.kind not in MUTATIONS]
    return tuple(find_aliases(results, operands))


def _outputs(made: list[OutputSpec], before: list[OutputSpec]) -> list[OutputSpec]:
    """Return what outputs stand for: new mutations, then what they stood for before."""
    mutations = [spec for spec in made if spec.kind in MUTATIONS]
    results = made[len(mutations) :]
    assert all(spec.kind is OutputKind.USER_OUTPUT for spec in results)
    known = [
        OutputSpec(earlier.kind, spec.arg, earlier.target)
        for spec, earlier in zip(results, before, strict=True)
    ]
    return [*mutations, *known]
