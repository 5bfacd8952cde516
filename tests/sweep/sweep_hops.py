"""Random programs with higher-order operators, on every surface: values, gradients and writes. ::

python tests/sweep/sweep_hops.py --count 2000
python tests/sweep/sweep_hops.py --seed 17 --count 1 --show

Each program is run with the operators and with what they mean. A surface must give what the meaning
gives in eager, or refuse; what goes wrong with the meaning as well is torch's.
"""

from __future__ import annotations

import argparse
import copy
import io
import logging
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from functorch.compile import aot_module, make_boxed_func
from hop_programs import OPERATORS, Block, Program, made, smaller
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import hopyard
from hopyard.errors import HopyardError
from hopyard_hookspecs import hookimpl

Observed = list[Any]


class Outcome(Enum):
    """What came of a program on a surface."""

    RIGHT = "right"
    REFUSED = "refused"
    TORCHS = "torch's"
    WRONG = "wrong"


@dataclass(frozen=True)
class Verdict:
    """An outcome and what there is to say of it."""

    outcome: Outcome
    detail: str = ""


class Offering:
    """The plugin that the operators come from."""

    @hookimpl
    def hopyard_register_hops(self) -> Iterator[Any]:
        yield from (operator.definition for operator in OPERATORS.values())


SESSION = hopyard.Session(plugins=[Offering()], discover=False)


def inputs(size: int = 3, *, requires_grad: bool = True) -> tuple[Tensor, Tensor]:
    """Return the inputs of a program."""
    values = torch.linspace(-1, 1, size * size).reshape(size, size)
    given = values.clone(), values.flip(0).t().contiguous() * 0.5 + 0.1
    return tuple(each.requires_grad_(requires_grad) for each in given)  # type: ignore[return-value]


def observed(function: Callable[..., Any], given: Sequence[Tensor], program: Program) -> Observed:
    """Return the results of a call, in their containers, and all gradients of a weighted sum."""
    result = function(*given)
    leaves, spec = pytree.tree_flatten(result)
    found: Observed = [spec]
    total: Any = 0.0
    for leaf in leaves:
        found.append(leaf.detach().clone() if isinstance(leaf, Tensor) else leaf)
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            weights = torch.linspace(0.5, 1.5, leaf.numel()).reshape(leaf.shape)
            total = total + (leaf * weights).sum()
    sources = [each for each in (*given, *program.parameters()) if each.requires_grad]
    if isinstance(total, Tensor) and sources:
        return [*found, *torch.autograd.grad(total, sources, materialize_grads=True)]
    # What nothing depends on has a gradient of zeros, as far as one can tell.
    return [*found, *map(torch.zeros_like, sources)]


def difference(found: Observed, expected: Observed) -> str:
    """Return what differs, or "" if nothing does."""
    if len(found) != len(expected):
        return f"{len(found)} things are observed instead of {len(expected)}"
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            if one.shape != other.shape or one.dtype != other.dtype:
                return f"{index} is {one.dtype} of {tuple(one.shape)}"
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
                return f"{index} is\n{one}\n  instead of\n{other}"
        elif isinstance(one, Tensor) != isinstance(other, Tensor) or (
            not isinstance(one, Tensor) and one != other
        ):
            return f"{index} is {one} instead of {other}"
    return ""


def step(program: Program) -> Callable[..., Any]:
    """Return a training step as a program: values and gradients."""

    def run(x: Tensor, y: Tensor) -> Any:
        return observed(program, (x, y), program)[1:]

    return run


Surface = Callable[[Program], Observed]


class Unknown(TorchDispatchMode):
    """A mode that nobody has heard of."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _eager(program: Program) -> Observed:
    return observed(program, inputs(), program)


def _unknown_mode(program: Program) -> Observed:
    with Unknown():
        return observed(program, inputs(), program)


Make = Callable[..., Callable[..., GraphModule]]


def _traced(make: Make, program: Program) -> Observed:
    """A capture of the forward, run with gradients."""
    graph_module = make(program)(*inputs(requires_grad=False))
    return observed(graph_module, inputs(), program)


def _traced_for_inference(make: Make, program: Program) -> Observed:
    with torch.no_grad():
        graph_module = copy.deepcopy(make(program)(*inputs(requires_grad=False)))
        return observed(graph_module, inputs(requires_grad=False), program)


def _traced_again(make: Make, program: Program) -> Observed:
    given = inputs(requires_grad=False)
    with torch.no_grad():
        graph_module = make(make(program)(*given))(*given)
        return observed(graph_module, given, program)


def _resized(make: Make, program: Program) -> Observed:
    with torch.no_grad():
        graph_module = make(program)(*inputs(requires_grad=False))
        return observed(graph_module, inputs(5, requires_grad=False), program)


def _trained(make: Make, program: Program) -> Observed:
    graph_module = make(step(program))(*inputs())
    return [*graph_module(*inputs(requires_grad=False))]


def _functionalized(program: Program) -> Observed:
    with torch.no_grad():
        functional = torch.func.functionalize(program)
        return observed(functional, inputs(requires_grad=False), program)


def _functionalized_in(make: Make, program: Program) -> Observed:
    functional = torch.func.functionalize(program)
    with torch.no_grad():
        graph_module = make(lambda x, y: functional(x, y))(*inputs(requires_grad=False))
        return observed(graph_module, inputs(requires_grad=False), program)


def _under_aot_autograd(program: Program) -> Observed:
    compiled = aot_module(program, lambda graph_module, _: make_boxed_func(graph_module.forward))

    def with_a_tuple(x: Tensor, y: Tensor) -> Any:
        return tuple(compiled(x, y))

    return observed(with_a_tuple, inputs(), program)


def _exported(form: str, program: Program) -> Observed:
    given = inputs(requires_grad=False)
    with torch.no_grad():
        exported = torch.export.export(program, given, strict=False)
        if form != "exported":
            exported = exported.run_decompositions()
        if form == "saved":
            file = io.BytesIO()
            torch.export.save(exported, file)
            file.seek(0)
            exported = torch.export.load(file)
        return observed(exported.module(), given, program)


def _captured(form: str, program: Program) -> Observed:
    given = inputs(requires_grad=False)
    with torch.no_grad():
        captured = SESSION.capture(program, given)
        if form == "saved":
            with tempfile.TemporaryDirectory() as folder:
                captured.save(Path(folder) / "program.pt2")
                captured = SESSION.load(Path(folder) / "program.pt2")
        return observed(captured, given, program)


def _transformed(transform: str, program: Program) -> Observed:
    def total(x: Tensor, y: Tensor) -> Tensor:
        leaves = pytree.tree_leaves(program(x, y))
        return sum(each.sin().sum() for each in leaves if isinstance(each, Tensor))  # type: ignore[return-value]

    x, y = inputs(requires_grad=False)
    if transform == "vmap":
        stacked = torch.stack([x, y]), torch.stack([y, x])
        return list(pytree.tree_leaves(torch.vmap(program)(*stacked)))
    if transform == "jvp":
        return list(pytree.tree_leaves(torch.func.jvp(program, (x, y), (y, x))))
    return list(torch.func.grad(total, argnums=(0, 1))(x, y))


def _makers() -> Iterator[tuple[str, Make]]:
    for name, make in (("ours", hopyard.make_fx), ("torch", torch_make_fx)):
        for mode in ("real", "fake", "symbolic"):
            yield (
                f"{name} {mode}",
                partial(make, tracing_mode=mode, _allow_non_fake_inputs=True),
            )


MAKERS = dict(_makers())
ABOVE = {
    name: partial(make, pre_dispatch=True) for name, make in MAKERS.items() if name.endswith("fake")
}
SURFACES: dict[str, Surface] = {
    "eager": _eager,
    "unknown mode": _unknown_mode,
    **{name: partial(_traced, make) for name, make in MAKERS.items()},
    **{f"{name}, inference": partial(_traced_for_inference, m) for name, m in MAKERS.items()},
    **{f"{name}, training": partial(_trained, make) for name, make in MAKERS.items()},
    **{f"{name}, again": partial(_traced_again, make) for name, make in MAKERS.items()},
    **{f"{name}, above autograd": partial(_traced, make) for name, make in ABOVE.items()},
    **{f"{name}, functionalized": partial(_functionalized_in, m) for name, m in MAKERS.items()},
    **{f"{n}, resized": partial(_resized, m) for n, m in MAKERS.items() if n.endswith("symbolic")},
    "functionalized": _functionalized,
    "AOTAutograd": _under_aot_autograd,
    **{form: partial(_exported, form) for form in ("exported", "decomposed")},
    "exported and saved": partial(_exported, "saved"),
    "captured": partial(_captured, "captured"),
    "captured and saved": partial(_captured, "saved"),
    **{name: partial(_transformed, name) for name in ("vmap", "grad", "jvp")},
}
WITHOUT_GRADIENTS = ("inference", "again", "resized", "functionalized", "captured")
OWN = ("vmap", "grad", "jvp")
"""What they compute is nothing that eager computes."""


def expected_on(name: str, surface: Surface, meaning: Program) -> Observed:
    """Return what a surface has to give."""
    if name in OWN:
        return surface(meaning)  # type: ignore[return-value]
    if "training" in name:
        return list(step(meaning)(*inputs()))
    if "resized" in name:
        with torch.no_grad():
            return observed(meaning, inputs(5, requires_grad=False), meaning)
    if name.startswith(("exported", "decomposed")) or any(w in name for w in WITHOUT_GRADIENTS):
        with torch.no_grad():
            return observed(meaning, inputs(requires_grad=False), meaning)
    return observed(meaning, inputs(), meaning)


def judge(block: Block, name: str) -> Verdict:
    """Run a program on a surface."""
    surface = SURFACES[name]
    state = _state()
    try:
        expected = expected_on(name, surface, Program(block, meaning=True))
    except Exception as error:  # noqa: BLE001 - a program that does not work is no program
        return Verdict(Outcome.TORCHS, f"{type(error).__name__}: {error}")
    try:
        problem = difference(surface(Program(block)), expected)  # type: ignore[arg-type]
    except HopyardError as error:
        refused = f"{type(error).__name__}: {error.message}"
        is_refusal = isinstance(error, hopyard.errors.UnsupportedError)
        return Verdict(Outcome.REFUSED if is_refusal else _blamed(block, name, refused), refused)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
        told = "".join(traceback.format_exception(error)[-4:])
        return Verdict(_blamed(block, name, told), told)
    if _state() != state:
        return Verdict(Outcome.WRONG, "modes are left behind")
    if problem:
        return Verdict(_blamed(block, name, problem), problem)
    return Verdict(Outcome.RIGHT)


def smallest(block: Block, name: str, outcome: Outcome) -> Block:
    """Return the program with everything taken away that an outcome does not need."""
    for candidate in smaller(block):
        if judge(candidate, name).outcome is outcome:
            return smallest(candidate, name, outcome)
    return block


def _blamed(block: Block, name: str, problem: str) -> Outcome:
    """Say whose fault it is: torch's, if what the operators mean goes wrong there too."""
    meaning = Program(block, meaning=True)
    try:
        found: Any = SURFACES[name](meaning)
        is_right = not difference(found, expected_on(name, SURFACES[name], meaning))
    except Exception:  # noqa: BLE001
        is_right = False
    return Outcome.WRONG if is_right else Outcome.TORCHS


def _state() -> tuple[Any, ...]:
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    functions = torch.overrides._get_current_function_mode_stack()
    return len(modes), len(functions), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")


def main() -> int:
    """Sweep, and return how many programs went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--surfaces", nargs="+", default=list(SURFACES), choices=list(SURFACES))
    parser.add_argument("--show", action="store_true", help="print the programs")
    parser.add_argument("--smallest", action="store_true", help="make wrong programs small")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: Counter[tuple[str, Outcome]] = Counter()
    reasons: Counter[str] = Counter()
    start = time.perf_counter()
    for seed in range(options.seed, options.seed + options.count):
        block = made(seed)
        if options.show:
            print(f"# {seed}\n{Program(block)}\n", flush=True)
        for name in options.surfaces:
            verdict = judge(block, name)
            counts[name, verdict.outcome] += 1
            if verdict.outcome is Outcome.REFUSED:
                reasons[verdict.detail[:60]] += 1
            if verdict.outcome is Outcome.WRONG or (options.show and verdict.detail):
                told = verdict.detail[:1500]
                print(f"{seed}, {name}: {verdict.outcome.value}: {told}", flush=True)
            if verdict.outcome is Outcome.WRONG and options.smallest:
                print(Program(smallest(block, name, verdict.outcome)), flush=True)
    print(f"{'':28}" + "".join(f"{each.value:>10}" for each in Outcome))
    for name in options.surfaces:
        print(f"{name:28}" + "".join(f"{counts[name, each]:10}" for each in Outcome))
    for reason, count in reasons.most_common(20):
        print(f"{count:6} {reason}")
    wrong = sum(counts[name, Outcome.WRONG] for name in options.surfaces)
    print(f"{options.count} programs in {time.perf_counter() - start:.0f} s, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
