"""Whether a program computes what eager does."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn import Module

from .._torch.pytree import keystr, tree_flatten_with_path, tree_leaves
from ..errors import VerificationError
from ..program import Program
from ._factory import Target
from ._stages import during

TOLERANCES: Final[Mapping[torch.dtype, float]] = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 3e-2,
}
"""Allowed deviation by the precision of a value, relative to its largest magnitude or 1.

Wide enough for a pass to change the order of sums, too narrow for one that changes what they mean.
Whole numbers and truth values must be equal.
"""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a program is from eager where it is farthest.

    Attributes:
        largest: The largest absolute difference.
        where: The value that has it.
        allowed: The absolute difference that was allowed there.
    """

    largest: float
    where: str
    allowed: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run leaves behind: its result, and what it changed in place."""

    result: Any
    inputs: Any
    state: Mapping[str, Tensor]

    def values(self) -> Iterator[tuple[str, Any]]:
        """Yield every value with its name."""
        for name, tree in (("result", self.result), ("input", self.inputs)):
            for path, value in tree_flatten_with_path(tree)[0]:
                yield f"{name}{keystr(path)}", value
        for name, value in self.state.items():
            yield f"state {name!r}", value


def copied(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a copy of modules and tensors that shares nothing with them.

    Raises:
        HopyardError: There is something among them that cannot be copied.
    """
    computed: dict[int, Any] = {}
    with torch.enable_grad():
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                # deepcopy refuses it; its copy shall not be a leaf either.
                computed[id(leaf)] = leaf.detach().requires_grad_().clone()
    hint = "let the factory return a module and inputs that copy.deepcopy can copy"
    with during("compare", "copying the module and its inputs for eager", hint):
        return copy.deepcopy(values, computed)


def run_eagerly(target: Target, names: tuple[str, ...], seed: int) -> Observed:
    """Run a target, which is changed if it changes itself.

    Args:
        target: What to run.
        names: The parameters and buffers to observe.
        seed: Of torch's random numbers.

    Raises:
        HopyardError: The target raised; the location is the line in it.
    """
    torch.manual_seed(seed)
    with during("eager", "the original"):
        result = target.function(*target.args, **target.kwargs)
    state: dict[str, Tensor] = {}
    if isinstance(target.function, Module):
        state |= dict(target.function.named_parameters())
        state |= dict(target.function.named_buffers())
    return Observed(
        result, (target.args, target.kwargs), {name: state[name] for name in names if name in state}
    )


def run_program(
    program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
) -> Observed:
    """Run a program, whose state remains as it is; the inputs may be changed.

    Raises:
        HopyardError: The program raised.
    """
    torch.manual_seed(seed)
    own = {name: program.state[name].detach().clone() for name in changeable_state(program)}
    private = Program(
        program.graph_module,
        program.signature,
        state={**program.state, **own},
        constants=program.constants,
        convention=program.convention,
        manifest=program.manifest,
    )
    with during("compare", "the transformed program"):
        result = private(*args, **kwargs)
    return Observed(result, (args, kwargs), own)


def changeable_state(program: Program) -> tuple[str, ...]:
    """Return the names of the parameters that a program says it changes, and of all buffers.

    Some operators write to buffers without saying so: `native_batch_norm` to its statistics.
    """
    signature = program.signature
    changed = [
        str(spec.target)
        for spec in signature.output_specs
        if spec.kind is OutputKind.PARAMETER_MUTATION
    ]
    buffers = [str(spec.target) for spec in signature.input_specs if spec.kind is InputKind.BUFFER]
    return (*changed, *buffers)


def compare(expected: Observed, found: Observed, tolerance: float | None) -> Deviation:
    """Return the largest deviation of a program from eager.

    Args:
        expected: What eager did.
        found: What the program did.
        tolerance: What to allow instead of :data:`TOLERANCES`.

    Raises:
        VerificationError: It is not allowed.
    """
    ours, theirs = dict(found.values()), dict(expected.values())
    if list(ours) != list(theirs):
        raise _deviates(f"returns {', '.join(ours)}", f"eager {', '.join(theirs)}")
    deviations = [
        _deviation(where, value, ours[where], tolerance) for where, value in theirs.items()
    ]
    by_size = sorted(deviations, key=lambda each: each.largest, reverse=True)
    for worst in by_size:
        if worst.largest > worst.allowed:
            raise _deviates(
                f"{worst.where} deviates by {worst.largest:.3g}",
                f"at most {worst.allowed:.3g} is allowed",
            )
    return by_size[0] if by_size else Deviation(0.0, "no values", 0.0)


def _deviation(where: str, expected: Any, found: Any, tolerance: float | None) -> Deviation:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        if type(expected) is not type(found) or not _equal(expected, found):
            raise _deviates(f"{where} is {found!r}", f"eager's is {expected!r}")
        return Deviation(0.0, where, 0.0)
    if _kind(expected) != _kind(found):
        raise _deviates(f"{where} is {_kind(found)}", f"eager's is {_kind(expected)}")
    left, right = _comparable(expected), _comparable(found)
    allowed = _allowed(left, expected.dtype, tolerance)
    same = (left == right) | (left.isnan() & right.isnan())
    if bool(same.all()):
        return Deviation(0.0, where, allowed)
    if left.is_floating_point() or left.is_complex():
        difference = (left - right).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    else:
        # Large integers that differ can be equal as floating-point numbers.
        difference = (left.double() - right.double()).abs().clamp(min=1.0)
    return Deviation(float(difference.masked_fill(same, 0.0).max()), where, allowed)


def _equal(expected: object, found: object) -> bool:
    both_nan = expected != expected and found != found
    return bool(expected == found or both_nan)


def _comparable(tensor: Tensor) -> Tensor:
    """Return a dense tensor on the CPU, floating-point numbers in the widest precision."""
    tensor = tensor.detach().cpu()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor


def _kind(tensor: Tensor) -> str:
    shape = ", ".join(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')}[{shape}] on {tensor.device}"


def _allowed(expected: Tensor, precision: torch.dtype, tolerance: float | None) -> float:
    if not (precision.is_floating_point or precision.is_complex):
        return 0.0
    relative = TOLERANCES.get(precision, 0.0) if tolerance is None else tolerance
    magnitudes = expected.abs()
    finite = magnitudes[magnitudes.isfinite()]
    return relative * max(1.0, float(finite.max()) if finite.numel() else 0.0)


def _deviates(what: str, instead: str) -> VerificationError:
    return VerificationError(
        f"the transformed program does not compute what eager does: {what}, {instead}",
        hint="nothing was written; leave passes out of the pipeline to find the one at fault",
        stage="compare",
    )
