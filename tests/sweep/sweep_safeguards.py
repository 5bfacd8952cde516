"""Capture models of the transformers library under every safeguard and look for false alarms.

Each architecture is captured in evaluation and in training, with gradients on: as it is, and with a
hazard of each kind in the middle, put there by a forward hook. A finding of severity "error" says
that results, gradients or state of the graph differ from the model's, so a run of both must show
it; otherwise it is a false alarm. Where nothing is found, both must agree. What is put there must
be found. ::

    python tests/sweep/sweep_safeguards.py
    python tests/sweep/sweep_safeguards.py --only llama --hazards HY101
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sweep_models import ARCHITECTURES, Architecture
from torch import Tensor, nn

import hopyard
from hopyard.errors import CaptureError
from hopyard.testing import observed_effects, same_effects
from hopyard_hookspecs import Finding, Policy, Severity


class Reversed(torch.autograd.Function):
    """The identity with a reversed gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.tanh()
    return x + scale


def inferred(x: Tensor) -> Tensor:
    with torch.inference_mode():
        scale = x.tanh()
    return x + scale.clone()


def hooked(x: Tensor) -> Tensor:
    y = x * 1.0
    y.register_hook(lambda gradient: gradient * 2)
    return y


def reversed_gradient(x: Tensor) -> Tensor:
    return Reversed.apply(x)


def detached(x: Tensor) -> Tensor:
    scale = x.tanh()
    scale.detach_()
    return x + scale


HAZARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "HY101": without_gradient,
    "HY103": inferred,
    "HY111": hooked,
    "HY113": reversed_gradient,
    "HY114": detached,
}
"""A program with each hazard, by code."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one capture.

    Attributes:
        outcome: "agrees", "confirmed", "false alarm", "missed", or "not captured".
        findings: What was found.
        detail: Why it was not captured.
    """

    outcome: str
    findings: tuple[Finding, ...] = ()
    detail: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the safeguards did what they promise."""
        return self.outcome not in ("false alarm", "missed")


def judge(
    session: hopyard.Session, architecture: Architecture, *, training: bool, hazard: str = ""
) -> Verdict:
    """Capture one model, with a hazard in the middle if one is named, and compare what is found
    with what happens.
    """
    model = architecture.make().train(training)
    if hazard:
        inject(model, HAZARDS[hazard])
    inputs = prepared(architecture.inputs(), twice=training)
    original = copy.deepcopy(model)
    try:
        program = session.capture(model, (), inputs, policy=Policy.RECORD)
    except CaptureError as error:
        return Verdict("not captured", detail=f"{error.location}: {error.message}")
    eager = observed_effects(lambda given: original(**given), (inputs,), original)
    found = observed_effects(lambda given: program(**given), (inputs,), model)
    errors = [each.code for each in program.findings if each.severity is Severity.ERROR]
    agree = same_effects(eager, found)
    if hazard and hazard not in errors:
        return Verdict("missed", program.findings)
    outcome = {
        (True, True): "agrees",
        (False, False): "confirmed",
        (True, False): "false alarm",
        (False, True): "missed",
    }[agree, not errors]
    return Verdict(outcome, program.findings)


def inject(model: nn.Module, hazard: Callable[[Tensor], Tensor]) -> None:
    """Let the first normalization or linear layer pass its result through a hazard."""
    kinds = (nn.LayerNorm, nn.BatchNorm2d, nn.Linear)
    layer = next(each for each in model.modules() if isinstance(each, kinds))
    layer.register_forward_hook(lambda module, inputs, output: hazard(output))


def prepared(inputs: dict[str, Tensor], *, twice: bool) -> dict[str, Tensor]:
    """Return inputs that are differentiated where they can be; batch norm needs two in training."""
    values = {key: torch.cat([each, each]) if twice else each for key, each in inputs.items()}
    return {
        key: each.requires_grad_() if each.is_floating_point() else each
        for key, each in values.items()
    }


def main() -> int:
    """Judge the architectures that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--hazards", nargs="*", default=list(HAZARDS), choices=HAZARDS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    session = hopyard.Session()
    outcomes: Counter[str] = Counter()
    for name, training in itertools.product(options.only, (False, True)):
        for hazard in ("", *options.hazards):
            architecture = ARCHITECTURES[name]
            verdict = judge(session, architecture, training=training, hazard=hazard)
            outcomes[verdict.outcome] += 1
            codes = ", ".join(sorted({each.code for each in verdict.findings})) or "nothing"
            form = "training" if training else "evaluation"
            if not hazard or verdict.outcome != "confirmed":
                what = f"{verdict.outcome:14}{verdict.detail or codes}"
                print(f"{name:14}{form:12}{hazard:7}{what}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return 1 if outcomes["false alarm"] + outcomes["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
