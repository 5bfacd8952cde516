"""Recurrent networks of any batch size drop between their layers what eager drops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence

from hopyard import Session

NETWORKS = {
    "gru": lambda: nn.GRU(3, 4, 2, dropout=0.5),
    "lstm, both directions": lambda: nn.LSTM(3, 4, 3, dropout=0.5, bidirectional=True),
    "lstm, projected": lambda: nn.LSTM(3, 4, 2, dropout=0.5, proj_size=2, batch_first=True),
    "tanh, no biases": lambda: nn.RNN(3, 4, 2, dropout=0.5, bias=False, batch_first=True),
    "relu, evaluation": lambda: nn.RNN(3, 4, 2, dropout=0.5, nonlinearity="relu").eval(),
    "one layer": lambda: nn.GRU(3, 4),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_numbers_are_dropped_as_in_eager(name: str) -> None:
    network = NETWORKS[name]()
    batch = 0 if network.batch_first else 1
    shapes = {"input": {batch: Dim("batch")}}
    example = torch.randn(*((4, 5) if batch == 0 else (5, 4)), 3)
    program = Session(discover=False).capture(network, (example,), dynamic_shapes=shapes)
    for size in (4, 7):
        given = torch.randn(*((size, 5) if batch == 0 else (5, size)), 3)
        torch.manual_seed(3)
        expected = network(given)
        torch.manual_seed(3)
        torch.testing.assert_close(program(given), expected)


def test_packed_sequences_are_called_layer_by_layer_as_well() -> None:
    from hopyard.program._recurrent import LayerByLayer

    network = nn.LSTM(3, 4, 2, dropout=0.5)
    packed = pack_padded_sequence(torch.randn(5, 2, 3), [5, 3])
    torch.manual_seed(3)
    expected = network(packed)
    torch.manual_seed(3)
    with LayerByLayer():
        found = network(packed)
    torch.testing.assert_close(found[0].data, expected[0].data)
    torch.testing.assert_close(found[1], expected[1])


def test_a_function_that_calls_a_network_is_right_too() -> None:
    network = nn.GRU(3, 4, 2, dropout=0.5)

    def function(x: Tensor) -> Any:
        return network(x)[0]

    shapes = {"x": {1: Dim("batch")}}
    program = Session(discover=False).capture(
        function, (torch.randn(5, 4, 3),), dynamic_shapes=shapes
    )
    given = torch.randn(5, 6, 3)
    torch.manual_seed(3)
    expected = function(given)
    torch.manual_seed(3)
    torch.testing.assert_close(program(given), expected)
