"""Fake tensors: shapes, types and devices without data."""

from __future__ import annotations

from torch import Tensor as _Tensor
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
    UnsupportedOperatorException as UnsupportedOperatorException,
)
from torch._subclasses.fake_tensor import is_fake as is_fake
from torch._subclasses.fake_tensor import unset_fake_temporarily as unset_fake_temporarily

make_subclass = _Tensor._make_subclass
"""Gives a tensor another Python class; the result shares its storage."""

make_wrapper = _Tensor._make_wrapper_subclass
"""Makes a tensor of a Python class without data, with a storage of any size."""

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "UnsupportedOperatorException",
    "detect_fake_mode",
    "fast_detach",
    "forbid_data_access",
    "is_fake",
    "make_subclass",
    "make_wrapper",
    "unset_fake_temporarily",
]
