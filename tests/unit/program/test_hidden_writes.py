"""Operators that write without saying so are captured as ones that say it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.export.graph_signature import OutputKind

from hopyard import Session


@pytest.mark.parametrize("grad", [False, True])
def test_running_statistics_are_in_the_signature_and_right_over_two_calls(grad: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    twin = copy.deepcopy(module)
    inputs = torch.randn(2, 3, 8, 8)
    with torch.set_grad_enabled(grad):
        program = Session(discover=False).capture(module, (inputs,))
        written = {
            spec.target
            for spec in program.signature.output_specs
            if spec.kind is OutputKind.BUFFER_MUTATION
        }
        assert written == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
        for _ in range(2):
            inputs = torch.randn(2, 3, 8, 8)
            torch.testing.assert_close(program(inputs), twin(inputs))
            for name, value in twin.named_buffers():
                torch.testing.assert_close(program.state[name], value)


def test_evaluation_and_missing_statistics_are_captured_as_they_are() -> None:
    session = Session(discover=False)
    inputs = torch.randn(4, 3)
    frozen = session.capture(nn.BatchNorm1d(3).eval(), (inputs,))
    stateless = session.capture(nn.BatchNorm1d(3, track_running_stats=False), (inputs,))
    for program in (frozen, stateless):
        kinds = {spec.kind for spec in program.signature.output_specs}
        assert kinds == {OutputKind.USER_OUTPUT}
