"""What a graph can hold besides tensors, numbers and containers of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..._torch.dispatch import HigherOrderOperator, OpOverload
from ..._torch.objects import is_opaque_type, is_opaque_value_type
from ..._torch.pytree import TreeSpec
from ...errors import UnsupportedError
from ._objects import is_object

if TYPE_CHECKING:
    from ._recorder import Recorder


def lower_leaf(value: Any, recorder: Recorder) -> Any:
    """Return what stands for `value` in a node's arguments.

    Raises:
        UnsupportedError: No graph can hold such a value.
    """
    if hasattr(value, "__fx_create_arg__"):
        return value.__fx_create_arg__(recorder.fx_tracer)
    if is_object(value):
        return _object(value, recorder)
    if isinstance(value, range):
        return range(*[recorder.lower(item) for item in (value.start, value.stop, value.step)])
    if isinstance(value, (OpOverload, HigherOrderOperator)):
        return value
    if isinstance(value, TreeSpec):
        return recorder.constant(value, "_tree_spec_constant")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        lowered = {name: recorder.lower(getattr(value, name)) for name in fields}
        node = recorder.graph.create_node("call_function", type(value), (), lowered)
        return recorder.origin.mark(node)
    raise UnsupportedError(
        f"a graph cannot hold a value of type {type(value).__qualname__}",
        hint="pass it as an input, or compute it outside the captured function",
        stage="capture",
    )


def _object(value: Any, recorder: Recorder) -> Any:
    node = recorder.objects.get(value)
    if node is not None:
        return node
    if is_opaque_value_type(type(value)):
        return value
    node = recorder.objects.rebuild(value, recorder.fx_tracer)
    if node is not None:
        return node
    base = "_opaque_obj" if is_opaque_type(type(value)) else "_torchbind_obj"
    return recorder.constant(value, base)
