"""How Dynamo reads a call: its variables, the graphs it writes and the guards it leaves.

Importing this module imports Dynamo, which takes seconds; import it where it is used.
"""

from __future__ import annotations

from torch._dynamo.guards import GuardBuilder as GuardBuilder
from torch._dynamo.guards import install_guard as install_guard
from torch._dynamo.utils import get_fake_value as fake_result
from torch._dynamo.utils import set_example_value as set_example
from torch._dynamo.variables.base import VariableTracker as Variable
from torch._dynamo.variables.builder import SourcelessBuilder as _SourcelessBuilder
from torch._dynamo.variables.builder import wrap_fx_proxy as graph_variable
from torch._dynamo.variables.constant import ConstantVariable as ConstantVariable
from torch._dynamo.variables.dicts import ConstDictVariable as _DictVariable
from torch._dynamo.variables.higher_order_ops import (
    TorchHigherOrderOperatorVariable as OperatorVariable,
)
from torch._dynamo.variables.higher_order_ops import (
    _hop_name_to_variable_class as operator_variables,
)
from torch._dynamo.variables.higher_order_ops import make_attr as read_attribute
from torch._dynamo.variables.higher_order_ops import speculate_subgraph as trace_body
from torch._dynamo.variables.lazy import LazyVariableTracker as _LazyVariable
from torch._dynamo.variables.lists import BaseListVariable as _ListVariable
from torch._dynamo.variables.tensor import SymNodeVariable as NumberVariable
from torch._dynamo.variables.torch_function import (
    TensorWithTFOverrideVariable as OverridingVariable,
)
from torch._dynamo.variables.user_defined import UserDefinedTupleVariable as _TupleVariable

NAMED_TUPLE_VARIABLE = _TupleVariable
"""The variable of a tuple of a class of its own; its `_base_vt` is the variable of a plain one."""

CONTAINER_VARIABLES = (_ListVariable, _DictVariable)
"""The variables of lists, tuples and dicts; their `items` are variables."""

realized = _LazyVariable.realize_all
"""Returns a structure of variables with those that Dynamo has put off made."""

container_variable = _SourcelessBuilder.create
"""Returns the variable of a list, tuple or dict of variables, given the translator first."""

__all__ = [
    "CONTAINER_VARIABLES",
    "NAMED_TUPLE_VARIABLE",
    "ConstantVariable",
    "GuardBuilder",
    "NumberVariable",
    "OperatorVariable",
    "OverridingVariable",
    "Variable",
    "container_variable",
    "fake_result",
    "graph_variable",
    "install_guard",
    "operator_variables",
    "read_attribute",
    "realized",
    "set_example",
    "trace_body",
]
