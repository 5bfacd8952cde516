"""What is checked of a higher-order operator where compilers read its calls."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from .._torch.compiler import boxed, lowered_backend
from .._torch.dispatch import HigherOrderOperator
from .._torch.inductor import compile_and_package
from .._torch.pytree import tree_leaves, tree_unflatten
from ..hops import compiler_support
from ._hop_calls import Call, HopSample, Program, agree, both, kept, same
from ._hop_surfaces import Surface

_IN_ANOTHER_PROCESS = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from hopyard._torch.inductor import load_package
from hopyard._torch.pytree import tree_leaves
folder = sys.argv[1]
inputs, expected = torch.load(f"{folder}/values.pt")
found = load_package(f"{folder}/program.pt2")(*inputs)
found = [each for each in tree_leaves(found) if isinstance(each, torch.Tensor)]
torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
"""


@contextmanager
def _compiling() -> Iterator[list[GraphModule]]:
    """Give a place for the graphs that are compiled, with what was compiled before forgotten."""
    missing = compiler_support()
    if missing:
        raise AssertionError(missing)
    torch.compiler.reset()
    try:
        yield []
    finally:
        torch.compiler.reset()


def _function(call: Call) -> Callable[..., Any]:
    return lambda *tensors: call(*tensors)


def _compiled(
    lower: bool, options: dict[str, Any], operator: HigherOrderOperator, sample: HopSample
) -> None:
    """Check that a compiled call keeps its region, computes what it means and trains."""
    call, meant = both(operator, sample)
    with _compiling() as graphs:

        def keep(graph_module: GraphModule, inputs: Any) -> Any:
            graphs.append(graph_module)
            return graph_module

        backend = _below_autograd(keep) if lower else keep
        compiled = torch.compile(_function(call), backend=backend, **options)
        with torch.no_grad():
            if not same(compiled(*call.tensors), meant(*meant.tensors)):
                raise AssertionError("the compiled call has other results without gradients")
        if not graphs:
            raise AssertionError("the compiled call is in no graph")
        kept(graphs[0], operator, "the graph of the compiled call")
        agree(compiled, meant, "the compiled call")


def _below_autograd(compiler: Callable[..., Any]) -> Callable[..., Any]:
    def compile_lowered(graph_module: GraphModule, inputs: Any) -> Any:
        return boxed(compiler(graph_module, inputs))

    made: Callable[..., Any] = lowered_backend(
        fw_compiler=compile_lowered, bw_compiler=lambda graph_module, inputs: boxed(graph_module)
    )
    return made


class _Owning(torch.nn.Module):
    """A sample as a module that owns the modules of the sample, as strict export wants them."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._owned = torch.nn.ModuleDict(
            {
                str(place): leaf
                for place, leaf in enumerate(call._leaves)
                if isinstance(leaf, torch.nn.Module)
            }
        )

    def forward(self, *tensors: torch.Tensor) -> Any:
        leaves = list(self._call._leaves)
        for name, module in self._owned.items():
            leaves[int(name)] = module
        for place, tensor in zip(self._call._places, tensors, strict=True):
            leaves[place] = tensor
        args = tree_unflatten(leaves, self._call._spec)
        return self._call._function(*args, **self._call._kwargs)


def _exported_strictly(dynamic: bool, operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with _compiling(), torch.no_grad():
        tensors = tuple(each.detach() for each in call.tensors)
        sizes = _dynamic_sizes(tensors) if dynamic else None
        exported = torch.export.export(_Owning(call), tensors, dynamic_shapes=sizes, strict=True)
        kept(exported.graph_module, operator, "the exported program")
        for program in (exported, exported.run_decompositions()):
            # The guards that torch writes name global variables, which the module does not have.
            if not same(program.module(check_guards=False)(*tensors), meant(*tensors)):
                raise AssertionError("the exported program has other results")


def _dynamic_sizes(tensors: tuple[torch.Tensor, ...]) -> Any:
    sizes = [dict.fromkeys(range(each.dim()), torch.export.Dim.AUTO) for each in tensors]
    return {"tensors": tuple(sizes)}


def _inductor(dynamic: bool, operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with _compiling():
        compiled = torch.compile(_function(call), fullgraph=True, dynamic=dynamic)
        with torch.no_grad():
            if not same(compiled(*call.tensors), meant(*meant.tensors)):
                raise AssertionError("the compiled call has other results without gradients")
        agree(compiled, meant, "the compiled call")


def _packaged(dynamic: bool, operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with _compiling(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        tensors = tuple(each.detach() for each in call.tensors)
        sizes = _dynamic_sizes(tensors) if dynamic else None
        exported = torch.export.export(Program(call), tensors, dynamic_shapes=sizes, strict=False)
        file = str(Path(folder) / "program.pt2")
        compile_and_package(exported, file)
        expected = [each for each in tree_leaves(meant(*tensors)) if isinstance(each, torch.Tensor)]
        torch.save((tensors, expected), Path(folder) / "values.pt")
        done = subprocess.run(
            [sys.executable, "-c", _IN_ANOTHER_PROCESS, folder],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise AssertionError(f"another process runs the package with: {done.stderr[-300:]}")


def _surfaces() -> Iterator[Surface]:
    rule = 'the rule "dynamo"'
    whole = {"fullgraph": True}
    yield Surface("torch.compile", partial(_compiled, False, whole), rule)
    yield Surface("torch.compile, in parts", partial(_compiled, False, {"fullgraph": False}), rule)
    yield Surface(
        "torch.compile, dynamic sizes", partial(_compiled, False, {**whole, "dynamic": True}), rule
    )
    yield Surface(
        "torch.compile, below autograd", partial(_compiled, True, whole), 'the rule "functionalize"'
    )
    lowering = 'the rule "inductor"'
    for dynamic, suffix in ((False, ""), (True, ", dynamic sizes")):
        yield Surface(f"torch.export, strict{suffix}", partial(_exported_strictly, dynamic), rule)
        yield Surface(f"Inductor{suffix}", partial(_inductor, dynamic), lowering, slow=True)
        yield Surface(f"AOTInductor{suffix}", partial(_packaged, dynamic), lowering, slow=True)


COMPILED_SURFACES = tuple(_surfaces())
"""What is checked of compilers, in order."""
