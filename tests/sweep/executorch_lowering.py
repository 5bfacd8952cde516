"""Lower programs by ExecuTorch, all of whose passes may be on our base instead of its own.

The base is replaced while ExecuTorch is imported, so `to_edge`, the XNNPACK delegate and
`to_executorch` run on it. Prints whether they are, and the digest of each file. ::

    python tests/sweep/executorch_lowering.py --base ours attention sizes
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch
from executorch_base import ours, replace
from torch.fx import GraphModule
from torch.utils._pytree import tree_map

from hopyard_export_pass import ExportPass


class Replacing(MetaPathFinder):
    """Puts our base in the place of ExecuTorch's as soon as that is there."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "executorch.exir.pass_base":
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            replace(module, described(ours(module)))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def described(base: type) -> type:
    """Return a base whose calls have `tensor_meta`, which later steps of ExecuTorch read."""

    class Described(base):  # type: ignore[misc]
        def call_submodule(self, graph_module: GraphModule, inputs: tuple[Any, ...]) -> Any:
            result = super().call_submodule(graph_module, inputs)
            for node in result.graph_module.graph.nodes:
                if node.op == "call_function":
                    node.meta.setdefault("tensor_meta", tree_map(_nothing, node.meta.get("val")))
            return result

    return Described


def _nothing(value: Any) -> None:
    """Say nothing of a value, as ExecuTorch's base does."""


def main() -> None:
    """Print the digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--base", choices=("ours", "theirs"), required=True)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if options.base == "ours":
        sys.meta_path.insert(0, Replacing())
    # Whoever computes values of parameters while gradients are recorded, as theirs does and ours
    # does not, says that they have some.
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        digests = {name: digest(name) for name in options.programs}
    from executorch.exir.passes import SpecPropPass

    print(json.dumps({"ours": issubclass(SpecPropPass, ExportPass), "files": digests}))


def digest(name: str) -> list[str]:
    """Return the digests of a program's files, without and with XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge, to_edge_transform_and_lower
    from executorch_programs import ATEN

    config = EdgeCompileConfig(_check_ir_validity=False)
    managers = (
        to_edge(ATEN[name](), compile_config=config),
        to_edge_transform_and_lower(
            ATEN[name](), partitioner=[XnnpackPartitioner()], compile_config=config
        ),
    )
    return [hashlib.sha256(made.to_executorch().buffer).hexdigest() for made in managers]


if __name__ == "__main__":
    main()
