"""Fake tensors: shapes, types and devices without data."""

from __future__ import annotations

from torch import Tensor as _Tensor
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey
from torch._C import _set_throw_on_mutable_data_ptr as forbid_data_access
from torch._guards import detect_fake_mode as detect_fake_mode
from torch._subclasses.fake_impls import fast_detach as fast_detach
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
from torch._subclasses.fake_tensor import unset_fake_temporarily as unset_fake_temporarily


def active_fake_mode() -> FakeTensorMode | None:
    """Return the fake mode that computes the operators of this thread, or None."""
    mode: FakeTensorMode | None = _get_dispatch_mode(_TorchDispatchModeKey.FAKE)
    return mode


make_subclass = _Tensor._make_subclass
"""Gives a tensor another Python class; the result shares its storage."""

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "UnsupportedFakeTensorException",
    "UnsupportedOperatorException",
    "active_fake_mode",
    "detect_fake_mode",
    "fast_detach",
    "forbid_data_access",
    "is_fake",
    "make_subclass",
    "unset_fake_temporarily",
]
