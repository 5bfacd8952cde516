"""A call of a lowered partition means on every surface what its reference graph means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

import hopyard
from hopyard.testing import HopContract, HopSample, check_hop
from hopyard_executorch_delegate import LoweredModule, ReferenceBackend, call_delegate

X = torch.linspace(-1, 1, 6).reshape(2, 3)
WEIGHT = torch.linspace(1, 2, 3)


def lowered(function: Callable[..., Any], *inputs: Tensor) -> LoweredModule:
    with torch.no_grad():
        graph_module = hopyard.make_fx(function, tracing_mode="fake")(*inputs)
    backend = ReferenceBackend()
    return LoweredModule(backend.lower(graph_module, {}), backend)


def weighted(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    y = (x * weight).tanh()
    return y.sum(-1), y.argmax(-1), y.detach() * 2, x @ weight.exp()


NO_FILE = "a file names the backend, and the kit's session has none; test_saving.py saves some"
NO_EXPORT = "torch's check of exported programs lets no such module pass; delegate what is exported"
NO_COMPILER = "Dynamo takes no such module as an operand; delegate what is captured"

EXCEPTIONS = {
    "save and load": NO_FILE,
    "torch.export": NO_EXPORT,
    "run_decompositions": NO_EXPORT,
    "torch.export.save and load": NO_EXPORT,
    "torch.compile": NO_COMPILER,
    "torch.compile, in parts": NO_COMPILER,
    "torch.compile, dynamic sizes": NO_COMPILER,
    "torch.compile, below autograd": NO_COMPILER,
    "torch.export, strict": NO_COMPILER,
    "torch.export, strict, dynamic sizes": NO_COMPILER,
}


class TestCallDelegate(HopContract):
    operator = call_delegate
    samples: ClassVar = (
        HopSample((lowered(lambda x: (x.sin(),), X), X), name="one result"),
        HopSample((lowered(weighted, X, WEIGHT), X, WEIGHT), name="several results"),
    )
    except_for: ClassVar = EXCEPTIONS


def test_what_is_excepted_is_refused_by_name() -> None:
    verdicts = check_hop(call_delegate, TestCallDelegate.samples[:1])
    problems = {verdict.surface: verdict.problem for verdict in verdicts if verdict.problem}
    assert problems.keys() == EXCEPTIONS.keys()
    assert "no backend named 'reference'" in problems.pop("save and load")
    for problem in problems.values():
        assert problem.startswith(("UnsupportedError", "CompileRefusal"))
        assert "LoweredModule" in problem
