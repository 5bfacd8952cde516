"""The tracer as torch's own higher-order operators expect one.

torch registers, for `cond`, `map` and its other higher-order operators, a rule for its own tracer.
The rule traces the bodies, asks the tracer for proxies and attributes, and adds a call. What is
here answers those questions from a :class:`~hopyard.tracing.Tracer`, so that the rule runs
unchanged and everything it records is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.fx import Graph, Node, Proxy
from torch.fx import Tracer as FxTracer
from torch.nn import Module

from ..._torch.proxies import TrackedTensor
from ..recording._objects import is_object
from ..recording._slots import Slot
from ..symbols._deferred import Deferred, Thunk
from ..symbols._tracker import SYMBOLIC

if TYPE_CHECKING:
    from .._tracer import Tracer


class LazyProxy(NamedTuple):
    """What torch keeps for a symbolic number: a proxy that is made when asked for."""

    owner: TorchTracer
    deferred: Deferred

    def force(self) -> Proxy:
        """Return the proxy."""
        return Proxy(self.deferred.force(), self.owner)


class TorchTracer(FxTracer):
    """A view of a tracer for code that was written for torch's.

    Attributes:
        capture: The tracer.
        tensor_tracker: Its slots, as a mapping from tensors.
        symnode_tracker: Its symbolic numbers, as a mapping.
        sympy_expr_tracker: Its symbols, by expression.
        script_object_tracker: Its script objects, as a mapping.
        opaque_tracker: Its opaque objects; the same mapping.
    """

    def __init__(self, capture: Tracer) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.capture = capture
        self.root = capture.recorder.root
        self.tensor_attrs = {}
        self.tensor_tracker = _Tensors(self)
        self.symnode_tracker = _Numbers(self)
        self.sympy_expr_tracker: dict[Any, Any] = {}
        self.script_object_tracker = self.opaque_tracker = _Objects(self)
        # Who stands for the same real object is the recorder's to say.
        self._opaque_real_obj_proxy: dict[int, Proxy] = {}
        self.proxy_module_inputs = False

    @property
    def graph(self) -> Graph:  # type: ignore[override]
        """The graph so far, complete from now on: unused numbers enter it as well."""
        self.capture.recorder.symbols.write_all()
        return self.capture.recorder.graph

    @property
    def enable_thunkify(self) -> bool:
        """Whether symbolic numbers enter the graph only if used."""
        return self.capture.enable_thunkify

    @enable_thunkify.setter
    def enable_thunkify(self, value: bool) -> None:
        self.capture.enable_thunkify = value

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
    ) -> Node:
        """Add a node and write on it where it comes from."""
        graph = self.capture.recorder.graph
        node = graph.create_node(kind, target, args, kwargs, name, type_expr)
        return self.capture.recorder.origin.mark(node)

    def get_fresh_qualname(self, prefix: str) -> str:
        """Return a free name for an attribute."""
        return self.capture.recorder.attributes.fresh_name(prefix)

    def create_arg(self, a: Any) -> Any:
        """Return what stands for a value in a node's arguments."""
        if isinstance(a, (Tensor, Module, *SYMBOLIC)) or is_object(a):
            return self.capture.recorder.lower(a)
        return super().create_arg(a)

    def unwrap_proxy(self, value: Any) -> Any:
        """Return the proxy of a value, or the value if it has none."""
        if isinstance(value, Tensor):
            slot = self.capture.recorder.slots.get(value)
            return value if slot is None else Proxy(slot.node, self)
        if isinstance(value, SYMBOLIC):
            lowered = self.capture.recorder.lower(value)
            return Proxy(lowered, self) if isinstance(lowered, Node) else value
        if is_object(value):
            node = self.capture.recorder.objects.get(value)
            return value if node is None else Proxy(node, self)
        return value


class _Tensors(MutableMapping[Tensor, TrackedTensor]):
    """The slots of a tracer under the names torch uses."""

    def __init__(self, owner: TorchTracer) -> None:
        self._owner = owner

    def __getitem__(self, tensor: Tensor) -> TrackedTensor:
        slot = self._owner.capture.recorder.slots.get(tensor)
        if slot is None:
            raise KeyError(tensor)
        return TrackedTensor(Proxy(slot.node, self._owner), slot.constant)

    def __setitem__(self, tensor: Tensor, tracked: TrackedTensor) -> None:
        recorder = self._owner.capture.recorder
        metadata = recorder.values.metadata_of(tensor)
        recorder.slots.set(tensor, Slot(tracked.proxy.node, tracked.constant, metadata))

    def __contains__(self, tensor: object) -> bool:
        slots = self._owner.capture.recorder.slots
        return isinstance(tensor, Tensor) and slots.get(tensor) is not None

    def __delitem__(self, tensor: Tensor) -> None:
        raise TypeError("a tensor keeps its slot while it is traced")

    def __iter__(self) -> Iterator[Tensor]:
        raise TypeError("slots are found from their tensors")

    def __len__(self) -> int:
        raise TypeError("slots are found from their tensors")


class _Numbers(MutableMapping[Any, LazyProxy]):
    """The symbolic numbers of a tracer under the names torch uses."""

    def __init__(self, owner: TorchTracer) -> None:
        self._owner = owner

    def __getitem__(self, value: Any) -> LazyProxy:
        deferred = self._owner.capture.recorder.symbols.find(value)
        if deferred is None:
            raise KeyError(value)
        return LazyProxy(self._owner, deferred)

    def __setitem__(self, value: Any, thunk: Any) -> None:
        symbols = self._owner.capture.recorder.symbols
        symbols.track(value, Thunk(lambda: thunk.force().node))

    def __contains__(self, value: object) -> bool:
        return self._owner.capture.recorder.symbols.knows(value)

    def __delitem__(self, value: Any) -> None:
        raise TypeError("a number keeps its node while it is traced")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("nodes are found from their numbers")

    def __len__(self) -> int:
        raise TypeError("nodes are found from their numbers")


class _Objects(MutableMapping[Any, Proxy]):
    """The script objects and opaque objects of a tracer under the names torch uses."""

    def __init__(self, owner: TorchTracer) -> None:
        self._owner = owner

    def __getitem__(self, value: Any) -> Proxy:
        node = self._owner.capture.recorder.objects.get(value)
        if node is None:
            raise KeyError(value)
        return Proxy(node, self._owner)

    def __setitem__(self, value: Any, proxy: Proxy) -> None:
        self._owner.capture.recorder.objects.set(value, proxy.node)

    def __contains__(self, value: object) -> bool:
        return self._owner.capture.recorder.objects.get(value) is not None

    def __delitem__(self, value: Any) -> None:
        raise TypeError("an object keeps its node while it is traced")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("nodes are found from their objects")

    def __len__(self) -> int:
        raise TypeError("nodes are found from their objects")
