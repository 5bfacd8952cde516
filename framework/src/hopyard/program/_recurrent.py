"""Dropout between the layers of recurrent networks, in captures with symbolic sizes.

With symbolic sizes torch takes a recurrent network apart by rules written in Python, which leave
its dropout out. The network is called layer by layer here, with dropout in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, RNNBase
from torch.overrides import TorchFunctionMode

_NETWORKS: frozenset[Any] = frozenset((torch.gru, torch.lstm, torch.rnn_relu, torch.rnn_tanh))


def may_drop_between_layers(target: Callable[..., Any]) -> bool:
    """Return whether a module holds a network with dropout; of a function nobody knows."""
    if not isinstance(target, Module):
        return True
    return any(isinstance(each, RNNBase) and each.dropout for each in target.modules())


class LayerByLayer(TorchFunctionMode):
    """Calls recurrent networks of several layers with dropout one layer after the other."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function, or the layers of a network."""
        if func not in _NETWORKS or kwargs:
            return func(*args, **(kwargs or {}))
        if isinstance(args[3], (tuple, list)):
            data, batch_sizes, *rest = args
            return _called(func, data, (batch_sizes,), (), *rest)
        *rest, batch_first = args
        if not batch_first:
            return _called(func, rest[0], (), (False,), *rest[1:])
        data, *states = _called(func, rest[0].transpose(0, 1), (), (False,), *rest[1:])
        return data.transpose(0, 1), *states


def _called(
    func: Callable[..., Any],
    data: Tensor,
    before: tuple[Any, ...],
    after: tuple[Any, ...],
    states: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> Any:
    """Return what a network returns.

    Args:
        func: The function.
        data: The input.
        before: Arguments between the input and the states.
        after: Arguments behind all others.
        states: A state for each layer and direction, one after the other; or several such tensors.
        weights: Of all layers, one after the other.
        has_biases: Whether biases are among them.
        layers: How many layers there are.
        dropout: The part of each layer's output but the last one's that becomes zero.
        train: Whether anything is dropped.
        bidirectional: Whether each layer has two directions.
    """
    rest = (train, bidirectional, *after)
    if not (dropout and train and layers > 1):
        return func(data, *before, states, weights, has_biases, layers, dropout, *rest)
    count, directions = len(weights) // layers, 2 if bidirectional else 1
    found = []
    for layer in range(layers):
        own = slice(layer * directions, (layer + 1) * directions)
        state = states[own] if isinstance(states, Tensor) else tuple(each[own] for each in states)
        layer_weights = weights[layer * count : (layer + 1) * count]
        data, *new = func(data, *before, state, layer_weights, has_biases, 1, 0.0, *rest)
        found.append(new)
        if layer < layers - 1:
            data = torch.dropout(data, dropout, True)
    return data, *(torch.cat(each) for each in zip(*found, strict=True))
