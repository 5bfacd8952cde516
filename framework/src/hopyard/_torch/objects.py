"""Values of programs that are neither tensors nor numbers: script objects and opaque objects."""

from __future__ import annotations

from typing import Any as _Any

from torch import Generator as _Generator
from torch import ScriptObject as _ScriptObject
from torch._higher_order_ops.torchbind import call_torchbind as call_method
from torch._library.fake_class_registry import FakeScriptObject as FakeScriptObject
from torch._library.fake_class_registry import _is_script_object as is_script_object
from torch._library.fake_class_registry import has_fake_class as _has_fake_class
from torch._library.fake_class_registry import maybe_to_fake_obj as to_fake_object
from torch._library.opaque_object import get_reconstruct_fn as reconstruction_of
from torch._library.opaque_object import is_opaque_reference_type as is_opaque_reference_type
from torch._library.opaque_object import is_opaque_type as is_opaque_type
from torch._library.opaque_object import is_opaque_value_type as is_opaque_value_type
from torch._library.opaque_object import should_hoist as is_hoisted
from torch.fx.experimental._backward_state import BackwardState as BackwardState
from torch.utils.weak import WeakIdKeyDictionary as WeakIdKeyDictionary
from torch.utils.weak import _WeakHashRef as WeakHashRef

FAKE_CLASS_DECORATOR = "torch._library.register_fake_class"
"""What libraries register fake classes with; torch has no public name for it."""


def real_object(value: FakeScriptObject) -> _Any:
    """Return what a fake object stands for, or None if it was made without one."""
    # A fake object answers for attributes of the object that it stands for; this goes around that.
    try:
        return object.__getattribute__(value, "real_obj")
    except AttributeError:
        return None


def class_name(value: _ScriptObject | FakeScriptObject) -> str:
    """Return the name that torch knows the class of a script object, real or fake, by."""
    if isinstance(value, FakeScriptObject):
        return str(object.__getattribute__(value, "script_class_name"))
    return str(value._type().qualified_name())


def has_fake_class(value: _ScriptObject) -> bool:
    """Return whether a Python class was registered whose instances stand for such an object."""
    return bool(_has_fake_class(class_name(value)))


def address_of(generator: _Generator) -> int:
    """Return what all Python objects of one generator have in common."""
    address: int = generator._cdata  # type: ignore[attr-defined]
    return address


__all__ = [
    "FAKE_CLASS_DECORATOR",
    "BackwardState",
    "FakeScriptObject",
    "WeakHashRef",
    "WeakIdKeyDictionary",
    "address_of",
    "call_method",
    "class_name",
    "has_fake_class",
    "is_hoisted",
    "is_opaque_reference_type",
    "is_opaque_type",
    "is_opaque_value_type",
    "is_script_object",
    "real_object",
    "reconstruction_of",
    "to_fake_object",
]
