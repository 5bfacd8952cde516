"""The conformance kit on torch's own higher-order operators, with torch's samples of them. ::

python tests/sweep/sweep_hop_db.py
python tests/sweep/sweep_hop_db.py cond.simple

`sweep_operators.py` compares captures of the same samples with torch's. Here each is called on
every surface that applies; the tables say why one does not, and a surface that no longer goes wrong
is told as well.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping

import torch
from torch.testing._internal.hop_db import hop_db

from hopyard.testing import HopSample, SurfaceVerdict
from hopyard.testing._hops import SURFACES, _judge

OPERATORS: Mapping[str, str] = {
    "cond.simple": "cond",
    "flex_attention.simple": "flex_attention",
    "invoke_quant_packed.simple": "invoke_quant_packed",
    "map.nested": "map_impl",
    "map.simple": "map_impl",
    "map.triple_nested": "map_impl",
    "scan.simple": "scan",
    "while_loop.simple": "while_loop",
    "while_loop_stack_output.simple": "while_loop_stack_output",
}
"""Which operator a sample applies."""

WITHOUT_OPERATOR: Mapping[str, str] = {
    "auto_functionalize.simple": "a custom operator becomes one where torch compiles",
    "flex_attention_backward.explicit_buffers": "the sample gives no joint graph to call",
    "flex_attention_backward.simple": "the sample gives no joint graph to call",
    "inline_asm_elementwise.simple": "it runs on CUDA only",
    "invoke_quant.simple": "outside of torch's compiler it is a plain call",
    "invoke_subgraph.simple": "outside of torch's compiler it is a plain call",
    "local_map_hop.simple": "outside of torch's compiler it is a plain call",
    "register_hook.simple": "it registers a hook and is in no graph",
}
"""Samples that call no operator here, and why."""

NO_GRADIENT = "torch does not differentiate it here"
NO_RULE = "torch has no rule for it"
NO_PICKLE = "torch's operators are not pickled"
BELOW = "outside of captures torch compiles the call, and its compiler refuses it there"

EXCEPTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cond.simple": {
        NO_RULE: (
            "an unknown dispatch mode",
            "a tensor subclass",
        ),
        NO_PICKLE: ("pickle",),
        BELOW: (
            "grad",
            "jvp",
            "jacrev",
        ),
    },
    "flex_attention.simple": {
        NO_GRADIENT: (
            "eager",
            "operands unchanged",
            "results apart",
            "autocast",
            "fake tensors",
            "functionalize",
            "hopyard, fake",
            "torch's make_fx, fake",
            "hopyard, real",
            "torch's make_fx, real",
            "hopyard, symbolic",
            "torch's make_fx, symbolic",
            "hopyard, above autograd",
            "torch's make_fx, above autograd",
            "hopyard, training step",
            "torch's make_fx, training step",
            "capture",
            "save and load",
            "torch.export",
            "run_decompositions",
            "torch.export.save and load",
            "vmap",
            "grad",
            "jvp",
            "jacrev",
            "an unknown dispatch mode",
            "FlopCounterMode",
            "deepcopy",
            "torch.compile, in parts",
        ),
        NO_PICKLE: ("pickle",),
        BELOW: (
            "a tensor subclass",
            "torch.compile",
            "torch.compile, dynamic sizes",
            "torch.compile, below autograd",
        ),
    },
    "invoke_quant_packed.simple": {
        NO_RULE: (
            "vmap",
            "grad",
            "jvp",
            "jacrev",
            "an unknown dispatch mode",
            "FlopCounterMode",
            "a tensor subclass",
        ),
        NO_PICKLE: ("pickle",),
    },
    "map.nested": {
        NO_RULE: ("a tensor subclass",),
        NO_PICKLE: ("pickle",),
        BELOW: (
            "vmap",
            "grad",
            "jvp",
            "jacrev",
            "an unknown dispatch mode",
            "FlopCounterMode",
            "torch.compile, dynamic sizes",
        ),
    },
    "map.simple": {
        NO_RULE: (
            "an unknown dispatch mode",
            "FlopCounterMode",
            "a tensor subclass",
        ),
        NO_PICKLE: ("pickle",),
        BELOW: (
            "vmap",
            "grad",
            "jvp",
            "jacrev",
        ),
    },
    "map.triple_nested": {
        NO_RULE: ("a tensor subclass",),
        NO_PICKLE: ("pickle",),
        BELOW: (
            "vmap",
            "grad",
            "jvp",
            "jacrev",
            "an unknown dispatch mode",
            "FlopCounterMode",
            "torch.compile, dynamic sizes",
        ),
    },
    "scan.simple": {
        NO_RULE: (
            "an unknown dispatch mode",
            "FlopCounterMode",
            "a tensor subclass",
        ),
        NO_PICKLE: ("pickle",),
        BELOW: (
            "hopyard, fake",
            "torch's make_fx, fake",
            "hopyard, symbolic",
            "torch's make_fx, symbolic",
            "hopyard, above autograd",
            "torch's make_fx, above autograd",
            "hopyard, training step",
            "torch's make_fx, training step",
            "grad",
            "jvp",
            "jacrev",
        ),
    },
    "while_loop.simple": {
        NO_GRADIENT: (
            "hopyard, fake",
            "torch's make_fx, fake",
            "hopyard, real",
            "torch's make_fx, real",
            "hopyard, symbolic",
            "torch's make_fx, symbolic",
        ),
        NO_RULE: (
            "an unknown dispatch mode",
            "FlopCounterMode",
            "a tensor subclass",
        ),
        NO_PICKLE: ("pickle",),
        BELOW: (
            "fake tensors",
            "vmap",
            "grad",
            "jacrev",
        ),
    },
    "while_loop_stack_output.simple": {
        NO_GRADIENT: (
            "eager",
            "autocast",
            "hopyard, fake",
            "torch's make_fx, fake",
            "hopyard, real",
            "torch's make_fx, real",
            "hopyard, symbolic",
            "torch's make_fx, symbolic",
            "hopyard, above autograd",
            "torch's make_fx, above autograd",
            "torch.compile",
            "torch.compile, in parts",
            "torch.compile, dynamic sizes",
            "torch.compile, below autograd",
        ),
        NO_RULE: (
            "vmap",
            "grad",
            "jacrev",
            "an unknown dispatch mode",
            "a tensor subclass",
        ),
        NO_PICKLE: ("pickle",),
        BELOW: ("fake tensors",),
    },
}
"""Surfaces that do not apply to a sample, by reason."""


def problems(name: str) -> dict[str, SurfaceVerdict]:
    """Return the surfaces on which a sample does not do what it does in eager."""
    (entry,) = (each for each in hop_db if each.full_name == name)
    torch.manual_seed(0)
    sample = next(iter(entry.sample_inputs_func(entry, "cpu", torch.float32, False)))
    call = HopSample((sample.input, *sample.args), sample.kwargs, name, entry.op)
    operator = getattr(torch.ops.higher_order, OPERATORS[name])
    found = {}
    for surface in SURFACES:
        if not surface.slow:
            # Outside of captures torch compiles such calls, and remembers what it could not.
            torch.compiler.reset()
            verdict = _judge(surface, operator, call)
            if verdict.problem:
                found[surface.name] = verdict
    return found


def judge(name: str) -> list[str]:
    """Return what is not as the tables say."""
    found = problems(name)
    excepted = {surface for surfaces in EXCEPTIONS[name].values() for surface in surfaces}
    wrong = [f"{name}, {verdict}" for surface, verdict in found.items() if surface not in excepted]
    return [*wrong, *(f"{name}, {each}: it works now" for each in sorted(excepted - found.keys()))]


def unlisted() -> set[str]:
    """Return the samples of torch's that no table names."""
    return {entry.full_name for entry in hop_db} - OPERATORS.keys() - WITHOUT_OPERATOR.keys()


def main() -> int:
    """Sweep, and return how many surfaces are not as the tables say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(OPERATORS), metavar="SAMPLE")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    wrong = [f"{name} is in no table" for name in sorted(unlisted())]
    for name in options.names:
        found = judge(name)
        told = sum(len(surfaces) for surfaces in EXCEPTIONS[name].values())
        print(f"{name}: {told} surfaces do not apply, {len(found)} are not as they should be")
        wrong += found
    print("\n".join(wrong))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
