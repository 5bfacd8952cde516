from __future__ import annotations

import pytest
import torch

from hopyard.cli._compare import Observed, compare, copied
from hopyard.errors import HopyardError, VerificationError

NAN, INF = float("nan"), float("inf")


def observed(result):
    return Observed(result, ((), {}), {})


@pytest.mark.parametrize(
    ("eager", "program", "largest"),
    [
        (torch.tensor([1.0, NAN, INF]), torch.tensor([1.0, NAN, INF]), 0.0),
        (torch.tensor([1000.0, 1.0]), torch.tensor([1000.0, 1.05]), 0.05),
        (torch.tensor(1 + 1j), torch.tensor(1 + 1.00005j), 4.99e-5),
        (torch.ones(3).to_sparse(), torch.ones(3).to_sparse(), 0.0),
        (torch.ones(0), torch.ones(0), 0.0),
        ({"a": 1, "b": [None, "x", NAN]}, {"a": 1, "b": [None, "x", NAN]}, 0.0),
    ],
)
def test_values_within_rounding_agree(eager, program, largest):
    assert compare(observed(eager), observed(program), None).largest == pytest.approx(
        largest, rel=1e-2
    )


@pytest.mark.parametrize(
    ("eager", "program"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0, INF]), torch.tensor([1.0, -INF])),
        (torch.tensor(2**60), torch.tensor(2**60 + 1)),
        (torch.tensor(True), torch.tensor(False)),
        (torch.ones(3), torch.ones(3, dtype=torch.float64)),
        (torch.ones(3), torch.ones(1, 3)),
        (torch.ones(3), 1.0),
        (1, True),
        ([torch.ones(3)], [torch.ones(3), torch.ones(3)]),
        ({"a": torch.ones(3)}, {"b": torch.ones(3)}),
        (torch.tensor([1.0]), torch.tensor([1.001])),
    ],
)
def test_other_values_do_not(eager, program):
    with pytest.raises(VerificationError, match="does not compute what eager does"):
        compare(observed(eager), observed(program), None)


def test_the_worst_value_is_named():
    eager = {"near": torch.tensor([1.0]), "far": torch.tensor([1.0])}
    program = {"near": torch.tensor([1.1]), "far": torch.tensor([3.0])}
    with pytest.raises(VerificationError, match=r"result\['far'\] deviates by 2, at most 0.0001"):
        compare(observed(eager), observed(program), None)
    assert compare(observed(eager), observed(program), 2.0).where == "result['far']"


def test_a_copy_shares_nothing_and_keeps_ties_and_gradients():
    module = torch.nn.Linear(2, 2)
    computed = module.weight * 2
    copy, again, one, other = copied((module, module, computed, computed))
    assert copy is again
    assert copy.weight is not module.weight
    assert one is other
    assert one.requires_grad
    assert not one.is_leaf
    with pytest.raises(HopyardError, match="copying the module and its inputs") as refusal:
        copied((iter([]), (n for n in ())))
    assert refusal.value.stage == "compare"
