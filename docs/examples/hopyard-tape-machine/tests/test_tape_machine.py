"""The machine alone, without Hopyard's framework."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from hopyard_tape_machine.machine import TapeMachine, execute

X = torch.linspace(-1, 1, 6).reshape(2, 3)


def function(x, y):
    z = (x * y).sin() - x
    return z, -(z.exp() + y)


def test_a_tape_computes_what_its_partition_does():
    lowered = TapeMachine().lower(make_fx(function, tracing_mode="fake")(X, X + 1), {})
    torch.testing.assert_close(execute(lowered.processed_bytes, [X, X + 1]), function(X, X + 1))


@pytest.mark.parametrize("tape", [b"", b"TAPE", b"tape\2\0\0\0\0\0", b"TAPE\2\0\1\0\1\0"])
def test_a_damaged_tape_is_refused(tape):
    with pytest.raises(ValueError, match="damaged"):
        execute(tape, [X, X])


def test_another_speed_is_refused():
    partition = make_fx(function, tracing_mode="fake")(X, X)
    with pytest.raises(ValueError, match="one of slow, fast, not 'faster'"):
        TapeMachine().lower(partition, {"speed": "faster"})
