"""Programs whose graphs write, as programs of pure graphs."""

from __future__ import annotations

from torch import Tensor
from torch.export.graph_signature import ExportGraphSignature, OutputKind, OutputSpec

from .._graph_copy import copy_graph_module
from ..errors import ProgramError, UnsupportedError
from ..tracing import TracingOptions, fake_mode_for
from ._functionalize import functionalize, written_nodes
from ._lift import split_mutations
from ._operands import MUTATIONS, written_operands
from ._program import Program


def functionalized(program: Program) -> Program:
    """Return a program that computes the same by a graph that writes to no tensor.

    What the graph wrote to inputs and state is returned before its results and written back by
    the call, as in programs that Hopyard captured, which are returned as they are.

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
    outputs = _outputs(signature.output_specs, program.signature.output_specs)
    return program.replaced(graph_module=pure, signature=ExportGraphSignature(specs, outputs))


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
