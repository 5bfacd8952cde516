"""Which node stands for which script object or opaque object, and what a graph holds of them.

A script object is an instance of a C++ class that torch knows by name. An opaque object is one of a
Python class that was registered with torch so that operators may take it: of reference type, with
an identity (a generator, a process group), or of value type, as good as any other that equals it
(an enum).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node, Proxy
from torch.fx import Tracer as FxTracer

from ..._torch.objects import (
    FakeScriptObject,
    WeakHashRef,
    WeakIdKeyDictionary,
    address_of,
    is_hoisted,
    is_opaque_reference_type,
    is_opaque_type,
    is_opaque_value_type,
    real_object,
    reconstruction_of,
)


def is_object(value: object) -> bool:
    """Say whether `value` is a script object, real or fake, or an opaque object."""
    return isinstance(value, (torch.ScriptObject, FakeScriptObject)) or is_opaque_type(type(value))


def is_constant_object(value: object) -> bool:
    """Say whether generated code writes `value` down instead of reading it from somewhere."""
    return is_opaque_value_type(type(value)) and not is_hoisted(type(value))


class ObjectSlots:
    """The slots of one tracer.

    Script objects are told apart by what they are in C++, since one of them may have several Python
    objects; the node set last stands for it. Others are told apart by identity, and several fake
    objects of one real object have the node that was set first, as symbols have: it depends on
    the least. A generator has another Python object each time an operator is given it, and is told
    by its address in C++.
    """

    def __init__(self) -> None:
        self._script: Any = WeakIdKeyDictionary(dict=None, ref_type=WeakHashRef)
        self._opaque: Any = WeakIdKeyDictionary()
        # The real object is kept, so that its id stays its own.
        self._real: dict[int, tuple[Any, Node]] = {}
        self._generators: dict[int, tuple[torch.Generator, Node]] = {}

    def get(self, value: Any) -> Node | None:
        """Return the node that stands for `value`, or None."""
        if isinstance(value, torch.Generator):
            known = self._generators.get(address_of(value))
            return None if known is None else known[1]
        slots = self._script if isinstance(value, torch.ScriptObject) else self._opaque
        node: Node | None = slots.get(value)
        if node is None and isinstance(value, FakeScriptObject):
            node = self._of_real(real_object(value))
        return node

    def set(self, value: Any, node: Node) -> None:
        """Let `node` stand for `value`."""
        if isinstance(value, torch.Generator):
            self._generators[address_of(value)] = (value, node)
            return
        if isinstance(value, torch.ScriptObject):
            self._script[value] = node
            return
        real = real_object(value) if isinstance(value, FakeScriptObject) else None
        if real is None:
            self._opaque[value] = node
            return
        self._opaque[value] = self._real.setdefault(id(real), (real, node))[1]

    def rebuild(self, value: Any, tracer: FxTracer) -> Node | None:
        """Let the type of `value` make it from objects that have a node; None if it cannot.

        A type says how when it is registered with torch.
        """
        real = real_object(value) if isinstance(value, FakeScriptObject) else value
        make: Callable[..., Proxy | None] | None = None
        if is_opaque_reference_type(type(real)):
            make = reconstruction_of(type(real))

        def proxy_of(other: Any) -> Proxy | None:
            node = self._of_real(other) or self.get(other) or self._of_equal(other)
            return None if node is None else Proxy(node, tracer)

        proxy = None if make is None else make(real, proxy_of, tracer)
        if proxy is None:
            return None
        proxy.node.meta.setdefault("val", value)
        self.set(value, proxy.node)
        self._real.setdefault(id(real), (real, proxy.node))
        return proxy.node

    def clear(self) -> None:
        """Forget everything."""
        self._script.clear()
        self._opaque.clear()
        self._real.clear()
        self._generators.clear()

    def _of_real(self, real: Any) -> Node | None:
        known = self._real.get(id(real))
        return None if known is None else known[1]

    def _of_equal(self, real: Any) -> Node | None:
        for value, node in self._opaque.items():
            if isinstance(value, FakeScriptObject) and real_object(value) == real:
                found: Node = node
                return found
        return None
