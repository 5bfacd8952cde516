"""What is checked of a higher-order operator, surface by surface."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from hopyard_hookspecs import Hop, TracingMode, hookimpl

from .._torch.dispatch import HigherOrderOperator, TorchDispatchMode
from .._torch.fake import FakeTensorMode, make_wrapper
from .._torch.proxies import torch_make_fx
from .._torch.pytree import tree_leaves, tree_map_only
from ..hops import Operator
from ..session import Session
from ..tracing import TRACING_MODES, make_fx
from ._hop_calls import HopSample, Program, agree, both, is_tensor, kept, same


@dataclass(frozen=True)
class Surface:
    """Somewhere a call may end up.

    Attributes:
        name: A few words.
        check: Raises AssertionError, or whatever the surface raises, unless the call does there
            what it means.
        rule: What an author can write if it does not.
        slow: Whether the check takes seconds.
    """

    name: str
    check: Callable[[HigherOrderOperator, HopSample], None]
    rule: str
    slow: bool = False


def _eager(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    agree(call, meant, "a call")


def _operands_kept(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, _ = both(operator, sample)
    tensors = call.tensors
    before = [(each.detach().clone(), each._version) for each in tensors]
    with torch.no_grad():
        call(*tensors)
    for position, (tensor, (value, version)) in enumerate(zip(tensors, before, strict=True)):
        if tensor._version != version or not tensor.equal(value):
            raise AssertionError(f"a call changes its tensor operand {position} in place")


def _results_apart(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, _ = both(operator, sample)
    tensors = call.tensors
    with torch.no_grad():
        results = [each for each in tree_leaves(call(*tensors)) if is_tensor(each)]
    known = {each.untyped_storage()._cdata: f"tensor operand {i}" for i, each in enumerate(tensors)}
    for position, result in enumerate(results):
        storage = result.untyped_storage()._cdata
        if storage in known and result.numel():
            raise AssertionError(f"result {position} shares memory with {known[storage]}")
        known[storage] = f"result {position}"


def _autocast(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        agree(call, meant, "a call under autocast")


def _fake(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with torch.no_grad():
        expected = [each for each in tree_leaves(meant(*meant.tensors)) if is_tensor(each)]
        tensors = call.tensors
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = [mode.from_tensor(each) for each in tensors]
            found = [each for each in tree_leaves(call(*fakes)) if is_tensor(each)]
    if len(found) != len(expected):
        raise AssertionError(f"fake results are {len(found)} instead of {len(expected)}")
    for position, (fake, real) in enumerate(zip(found, expected, strict=True)):
        for what in ("dtype", "shape", "device"):
            if getattr(fake, what) != getattr(real, what):
                raise AssertionError(
                    f"fake result {position} has {what} {getattr(fake, what)}, and the eager "
                    f"definition returns {getattr(real, what)}"
                )
        if fake.stride() != real.stride():
            raise AssertionError(
                f"fake result {position} has strides {fake.stride()} instead of {real.stride()}"
            )


def _functionalized(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with torch.no_grad():
        found = torch.func.functionalize(call)(*call.tensors)
        expected = meant(*meant.tensors)
    if not same(found, expected):
        raise AssertionError("a functionalized call has other results")


Tracing = Callable[[Callable[..., Any]], Callable[..., GraphModule]]


def _traced(tracing: Tracing, operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    graph_module = tracing(call)(*call.tensors)
    agree(graph_module, meant, "the graph")
    with torch.no_grad():
        inference = tracing(call)(*call.tensors)
        if call.has_results:
            kept(inference, operator, "the graph of a call without gradients")
        if not same(inference(*call.tensors), meant(*meant.tensors)):
            raise AssertionError("the graph of a call without gradients has other results")


def _joint(tracing: Tracing, operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)

    def step(function: Callable[..., Any], *tensors: Tensor) -> list[Tensor]:
        results = [each for each in tree_leaves(function(*tensors)) if is_tensor(each)]
        results = [each for each in results if each.requires_grad]
        sources = [each for each in tensors if each.requires_grad]
        if not results or not sources:
            return results
        total = sum((each * each).sum() for each in results)
        found: Any = torch.autograd.grad(total, sources, allow_unused=True)
        return [*results, *(each for each in found if each is not None)]

    graph_module = tracing(partial(step, call))(*call.tensors)
    found = graph_module(*call.tensors)
    expected = step(meant, *meant.tensors)
    if not same(found, expected):
        raise AssertionError("the graph of a training step has other results or gradients")


def _exported(steps: Sequence[str], operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    if not call.has_results:
        return
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        tensors = tuple(each.detach() for each in call.tensors)
        exported = torch.export.export(Program(call), tensors, strict=False)
        if "decompose" in steps:
            exported = exported.run_decompositions()
        if "save" in steps:
            file = io.BytesIO()
            torch.export.save(exported, file)
            file.seek(0)
            exported = torch.export.load(file)
        kept(exported.graph_module, operator, "the exported program")
        if not same(exported.module()(*tensors), meant.results(*tensors)):
            raise AssertionError("the exported program has other results")


class _Offering:
    """A plugin that registers one operator, so that programs with it can be loaded."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    @hookimpl
    def hopyard_register_hops(self) -> Iterator[Hop]:
        yield self._operator.definition


def _captured(saved: bool, operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    if not call.has_results:
        return
    plugins = [_Offering(operator)] if isinstance(operator, Operator) else []
    session = Session(plugins=plugins, discover=False)
    with torch.no_grad():
        tensors = tuple(each.detach() for each in call.tensors)
        program = session.capture(call.results, tensors)
        kept(program.graph_module, operator, "the program")
        if saved:
            with tempfile.TemporaryDirectory() as folder:
                program.save(Path(folder) / "program.pt2")
                program = session.load(Path(folder) / "program.pt2")
            kept(program.graph_module, operator, "the loaded program")
        if not same(program(*tensors), meant.results(*tensors)):
            raise AssertionError("the program has other results")


Transform = Callable[[Callable[..., Any], tuple[Tensor, ...]], Any]


def _transformed(transform: Transform, operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    if not call.has_results:
        return
    tensors = tuple(each.detach() for each in call.tensors)
    if not same(transform(call.results, tensors), transform(meant.results, tensors)):
        raise AssertionError("the transformed call has other results")


def _vmap(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Any:
    batches = tuple(torch.stack([each, each.flip(0) if each.ndim else each]) for each in tensors)
    return torch.vmap(function)(*batches)


def _total(function: Callable[..., Any], *tensors: Tensor) -> Tensor:
    results = [each for each in tree_leaves(function(*tensors)) if is_tensor(each)]
    total: Any = sum((each * each).sum() for each in results if each.is_floating_point())
    return torch.as_tensor(total)


def _places(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(place for place, each in enumerate(tensors) if each.is_floating_point())


def _grad(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Any:
    return torch.func.grad(partial(_total, function), argnums=_places(tensors))(*tensors)


def _jacrev(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Any:
    return torch.func.jacrev(partial(_total, function), argnums=_places(tensors))(*tensors)


def _jvp(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Any:
    if not all(each.is_floating_point() for each in tensors):
        return ()
    tangents = tuple(torch.ones_like(each) for each in tensors)
    return torch.func.jvp(function, tensors, tangents)


class _Quiet(TorchDispatchMode):
    """A mode that knows nothing of the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def _under_a_mode(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    logs = []
    for function in (call, meant):
        with _Quiet() as mode:
            function(*function.tensors)
        logs.append(mode.seen)
    if logs[0] != logs[1]:
        raise AssertionError(f"a mode sees {logs[0]} instead of {logs[1]}")

    def under_mode(*tensors: Tensor) -> Any:
        with _Quiet():
            return call(*tensors)

    agree(under_mode, meant, "a call under a dispatch mode")


def _flops(operator: HigherOrderOperator, sample: HopSample) -> None:
    counts = []
    for function in both(operator, sample):
        with FlopCounterMode(display=False) as counter:
            function(*function.tensors)
        counts.append(counter.get_total_flops())
    if counts[0] != counts[1]:
        raise AssertionError(f"{counts[0]} operations are counted instead of {counts[1]}")


class _Wrapped(Tensor):
    """A tensor subclass that knows nothing of the operator: a tensor in a wrapper."""

    wrapped: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _Wrapped:
        made = make_wrapper(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )
        made.wrapped = inner
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(
            _Wrapped, lambda each: each.wrapped, (args, dict(kwargs or {}))
        )
        return tree_map_only(Tensor, _Wrapped, func(*args, **kwargs))


def _subclass(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with torch.no_grad():
        plain = tuple(each.detach() for each in call.tensors)
        found = call(*map(_Wrapped, plain))
        unwrapped = tree_map_only(_Wrapped, lambda each: each.wrapped, found)
        if not same(unwrapped, meant(*plain)):
            raise AssertionError("a call on tensors of a subclass has other results")


def _copied(operator: HigherOrderOperator, sample: HopSample) -> None:
    call, meant = both(operator, sample)
    with torch.no_grad():
        graph_module = copy.deepcopy(_ours("fake")(call)(*call.tensors))
        if call.has_results:
            kept(graph_module, operator, "a copy of the graph")
        if not same(graph_module(*call.tensors), meant(*meant.tensors)):
            raise AssertionError("a copy of the graph has other results")


def _pickled(operator: HigherOrderOperator, sample: HopSample) -> None:
    del sample
    if pickle.loads(pickle.dumps(operator)) is not operator:
        raise AssertionError("the operator is another one after pickling")


def _ours(mode: TracingMode, *, pre_dispatch: bool = False) -> Tracing:
    return partial(
        make_fx, tracing_mode=mode, pre_dispatch=pre_dispatch, _allow_non_fake_inputs=True
    )


def _torchs(mode: TracingMode, *, pre_dispatch: bool = False) -> Tracing:
    return partial(
        torch_make_fx, tracing_mode=mode, pre_dispatch=pre_dispatch, _allow_non_fake_inputs=True
    )


def _surfaces() -> Iterator[Surface]:
    yield Surface("eager", _eager, "the eager definition")
    yield Surface("operands unchanged", _operands_kept, "the eager definition, without writes")
    yield Surface("results apart", _results_apart, "the eager definition, returning clones")
    yield Surface("autocast", _autocast, 'the rule "autograd"')
    yield Surface("fake tensors", _fake, 'the rule "fake"')
    yield Surface("functionalize", _functionalized, 'the rule "functionalize"')
    for mode in TRACING_MODES:
        yield Surface(f"hopyard, {mode}", partial(_traced, _ours(mode)), 'the rule "trace"')
        yield Surface(
            f"torch's make_fx, {mode}", partial(_traced, _torchs(mode)), 'the rule "torch-trace"'
        )
    above = {"pre_dispatch": True}
    yield Surface(
        "hopyard, above autograd", partial(_traced, _ours("fake", **above)), 'the rule "trace"'
    )
    yield Surface(
        "torch's make_fx, above autograd",
        partial(_traced, _torchs("fake", **above)),
        'the rule "torch-trace"',
    )
    yield Surface("hopyard, training step", partial(_joint, _ours("fake")), 'the rule "autograd"')
    yield Surface(
        "torch's make_fx, training step", partial(_joint, _torchs("fake")), 'the rule "autograd"'
    )
    yield Surface("capture", partial(_captured, False), 'the rule "trace"')
    yield Surface("save and load", partial(_captured, True), "plain values as configuration")
    yield Surface("torch.export", partial(_exported, ()), 'the rule "torch-trace"')
    yield Surface(
        "run_decompositions", partial(_exported, ("decompose",)), 'the rule "functionalize"'
    )
    yield Surface(
        "torch.export.save and load",
        partial(_exported, ("decompose", "save")),
        "plain values as configuration",
    )
    yield Surface("vmap", partial(_transformed, _vmap), 'the rule "transform"')
    yield Surface("grad", partial(_transformed, _grad), 'the rule "transform"')
    yield Surface("jvp", partial(_transformed, _jvp), 'the rule "transform"')
    yield Surface("jacrev", partial(_transformed, _jacrev), 'the rule "transform"')
    yield Surface("an unknown dispatch mode", _under_a_mode, "the eager definition")
    yield Surface("FlopCounterMode", _flops, "the eager definition")
    yield Surface("a tensor subclass", _subclass, "the eager definition")
    yield Surface("deepcopy", _copied, "the eager definition")
    yield Surface("pickle", _pickled, "the eager definition")


SURFACES = tuple(_surfaces())
"""Everything that is checked, in order."""
