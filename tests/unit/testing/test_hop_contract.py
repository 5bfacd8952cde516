"""The contract of higher-order operators passes for sound ones and catches broken ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from hopyard.hops import bind
from hopyard.testing import HopContract, HopSample, check_hop
from hopyard_hookspecs import Hop

X = torch.linspace(0.5, 2.0, 4)
Y = torch.linspace(1.0, 3.0, 4)


def scaled(body: Callable[..., Any], *operands: Any, factor: float = 1.0) -> Any:
    result = body(*operands)
    if isinstance(result, tuple):
        return tuple(factor * each for each in result)
    return factor * result


def closing_over(x: Tensor) -> Tensor:
    return x.sin() * Y


SCALED = bind(Hop("contract_test__scaled", eager=scaled))
SAMPLES = (
    HopSample((torch.sin, X), {"factor": 2.0}, "function"),
    HopSample((lambda x, y: (x * y, x - y), X, Y), {"factor": 0.5}, "two results"),
)


class TestScaled(HopContract):
    operator = SCALED
    samples: ClassVar = SAMPLES


class TestClosingOverAConstant(HopContract):
    operator = SCALED
    samples: ClassVar = (HopSample((closing_over, X), {"factor": 2.0}, "constant"),)


def silent_write(body: Callable[..., Any], *operands: Any) -> Any:
    result = body(*operands)
    operands[0].add_(1)
    return result


def alias(body: Callable[..., Any], *operands: Any) -> Any:
    body(*operands)
    return operands[0].view(-1)


def half(*args: Any, **kwargs: Any) -> Any:
    return torch.empty(4, dtype=torch.float16)


def without_gradient(operator: Any, *args: Any, **kwargs: Any) -> Any:
    return operator.definition.eager(*args, **kwargs).detach()


class Opaque:
    """No file can hold this."""


def configured(body: Callable[..., Any], *operands: Any, how: Any) -> Any:
    return body(*operands)


def sample(**config: Any) -> tuple[HopSample]:
    return (HopSample((torch.sin, X), config),)


BROKEN = [
    ("wrong fake rule", Hop("contract_test__fake", rules={"fake": half}), sample(), "fake tensors"),
    (
        "silent mutation",
        Hop("contract_test__write", eager=silent_write),
        sample(),
        "operands unchanged",
    ),
    ("aliasing result", Hop("contract_test__alias", eager=alias), sample(), "results apart"),
    (
        "dropped gradient",
        Hop("contract_test__drop", rules={"autograd": without_gradient}),
        sample(),
        "hopyard, training step",
    ),
    (
        "configuration that no file holds",
        Hop("contract_test__opaque", eager=configured),
        sample(how=Opaque()),
        "save and load",
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("definition", "samples", "surface"),
    [pytest.param(*case, id=name) for name, *case in BROKEN],
)
def test_broken_operators_are_caught(
    definition: Hop, samples: tuple[HopSample], surface: str
) -> None:
    verdicts = check_hop(bind(definition), samples)
    (caught,) = (each for each in verdicts if each.surface == surface)
    assert caught.problem
    assert caught.rule


@pytest.mark.filterwarnings("ignore")
def test_a_failure_says_what_broke_and_which_rule_to_write() -> None:
    class TestBroken(HopContract):
        operator = bind(BROKEN[0][1])
        samples = BROKEN[0][2]

    from hopyard.testing._hop_surfaces import SURFACES

    fake = next(each for each in SURFACES if each.name == "fake tensors")
    with pytest.raises(AssertionError) as raised:
        TestBroken().test_surface(fake, TestBroken.samples[0])
    assert "contract_test__fake on fake tensors" in str(raised.value)
    assert "torch.float16" in str(raised.value)
    assert 'the rule "fake"' in str(raised.value)
