"""Fake tensors: shapes, types and devices without data."""

from __future__ import annotations

from functools import partial as _partial

from torch import Tensor as _Tensor
from torch import _functionalize_unsafe_set as share_storage
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey
from torch._C import _set_throw_on_mutable_data_ptr as forbid_data_access
from torch._C._dynamo.guards import (  # type: ignore[attr-defined]
    _reinterpret_tensor as reinterpret,
)
from torch._decomp import decomposition_table as decomposition_table
from torch._decomp import meta_table as meta_table
from torch._guards import detect_fake_mode as detect_fake_mode
from torch._library.simple_registry import singleton as _registered_operators
from torch._ops import OpOverload as _OpOverload
from torch._subclasses.fake_impls import _is_tensor_constructor as is_tensor_constructor
from torch._subclasses.fake_impls import _like_tensor_constructors as like_constructors
from torch._subclasses.fake_impls import fast_detach as fast_detach
from torch._subclasses.fake_impls import get_fast_op_impls as fast_implementations
from torch._subclasses.fake_impls import op_implementations_checks as fake_rules_by_kind
from torch._subclasses.fake_impls import op_implementations_dict as fake_rules
from torch._subclasses.fake_tensor import (
    DataDependentOutputException as DataDependentOutputException,
)
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException as DynamicOutputShapeException,
)
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch._subclasses.fake_tensor import (
    UnsupportedFakeTensorException as UnsupportedFakeTensorException,
)
from torch._subclasses.fake_tensor import (
    UnsupportedOperatorException as UnsupportedOperatorException,
)
from torch._subclasses.fake_tensor import is_fake as is_fake
from torch._subclasses.fake_tensor import torch_decomp_decompositions as is_decomposed_when_fake
from torch._subclasses.fake_tensor import unset_fake_temporarily as unset_fake_temporarily

active_fake_mode = _partial(_get_dispatch_mode, _TorchDispatchModeKey.FAKE)
"""Returns the fake mode that computes the operators of this thread, or None."""

make_subclass = _Tensor._make_subclass
"""Gives a tensor another Python class; the result shares its storage."""

make_wrapper = _Tensor._make_wrapper_subclass
"""Makes a tensor of a Python class without data, with a storage of any size."""


def has_fake_kernel(func: _OpOverload) -> bool:
    """Say whether somebody registered a Python function that tells what `func` returns."""
    return _registered_operators.find(func.name()).fake_impl.kernel is not None


__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "UnsupportedFakeTensorException",
    "UnsupportedOperatorException",
    "active_fake_mode",
    "decomposition_table",
    "detect_fake_mode",
    "fake_rules",
    "fake_rules_by_kind",
    "fast_detach",
    "fast_implementations",
    "forbid_data_access",
    "has_fake_kernel",
    "is_decomposed_when_fake",
    "is_fake",
    "is_tensor_constructor",
    "like_constructors",
    "make_subclass",
    "make_wrapper",
    "meta_table",
    "reinterpret",
    "share_storage",
    "unset_fake_temporarily",
]
