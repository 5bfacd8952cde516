"""The function mode that keeps what autograd, autocast and function transforms are told as nodes.

None of it is an operator that a dispatch mode sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from hopyard_hookspecs import CaptureRequest

from ..._torch.dispatch import HigherOrderOperator, function_mode_stack, set_grad_enabled
from ..._torch.predispatch import (
    FORWARD_AD_FUNCTIONS,
    TRANSFORM_FUNCTIONS,
    PreDispatchTorchFunctionMode,
    UnmanagedAutocast,
    disable_transforms,
    enter_autocast,
    exit_autocast,
)
from ...errors import UnsupportedError
from ..bridge._reentry import active_tracer
from ..provenance._locations import current_location
from ..recording._slots import Slot
from ._regions import admit

if TYPE_CHECKING:
    from .._mode import TracingMode
    from .._tracer import Tracer

# Programs pass functions that cannot be hashed, and hashing an operator runs Python code.
_TRANSFORMS = {id(function): function for function in TRANSFORM_FUNCTIONS}
_FORWARD_AD = {id(function) for function in FORWARD_AD_FUNCTIONS}


def state_recorder(request: CaptureRequest) -> AbstractContextManager[Any]:
    """Return the function mode of the capture that is starting on this thread, if it needs one."""
    tracer = active_tracer()
    if tracer is None or not request.pre_dispatch:
        return nullcontext()
    return StateRecorder(tracer, tracer.mode)


class StateRecorder(PreDispatchTorchFunctionMode):
    """Records changes of the grad mode, of autocast, and of the stack of function transforms.

    Whether gradients are recorded and whether autocast is on becomes part of the graph. torch tells
    about transforms only while a program is exported (`torch.compiler.is_exporting()`). To describe
    the results of these functions it calls operators, which its graphs hold; ours does so for fake
    tensors, to number alike, and leaves them out of real captures.

    It derives from torch's mode only because torch's autocast looks for one of that type: every
    method is its own.

    Args:
        capture: The tracer of the capture.
        mode: Its dispatch mode.

    Attributes:
        tracer: The tracer in the form that torch asks for.
    """

    def __init__(self, capture: Tracer, mode: TracingMode) -> None:
        TorchFunctionMode.__init__(self)
        self.tracer: Any = mode.tracer
        self._capture = capture
        self._recorder = capture.recorder
        self._mode_type = type(mode)
        self._entered: list[tuple[Node, UnmanagedAutocast | None]] = []

    def __exit__(self, *exception: Any) -> None:
        """Leave the mode, and the autocast regions that the program began by hand."""
        TorchFunctionMode.__exit__(self, *exception)
        while self._entered:
            _, unmanaged = self._entered.pop()
            if unmanaged is not None:
                unmanaged.__exit__(None, None, None)

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record a function if it changes such state, and call it."""
        kwargs = kwargs or {}
        if func is set_grad_enabled:
            node = self._keep(func, args)
            func(*args, **kwargs)
            return node
        if func is enter_autocast:
            return self._enter_autocast(args)
        if func is exit_autocast:
            return self._exit_autocast()
        if id(func) in _TRANSFORMS:
            return self._transform(func, args, kwargs)
        if isinstance(func, HigherOrderOperator):
            admit(func, self._mode_type)
        return func(*args, **kwargs)

    def _keep(self, function: Callable[..., Any], args: Sequence[Any]) -> Node:
        """Record a call that returns nothing."""
        node = self._recorder.call(function, args, {}, function.__name__)
        node.meta["val"] = None
        return node

    def _enter_autocast(self, args: Sequence[Any]) -> Node:
        node = self._keep(enter_autocast, args)
        unmanaged = None
        if not self._is_told():
            # The program calls the function itself, as captured graphs do, and nobody else will
            # switch autocast on.
            unmanaged = UnmanagedAutocast(*args)
            unmanaged.__enter__()
        self._entered.append((node, unmanaged))
        return node

    def _exit_autocast(self) -> Node:
        if not self._entered:
            refusal = UnsupportedError(
                "the program leaves an autocast region that it has not entered",
                hint="enter the region inside the captured function",
                stage="capture",
                location=current_location(),
            )
            self._capture.refusal = self._capture.refusal or refusal
            raise refusal
        entered, unmanaged = self._entered.pop()
        if unmanaged is not None:
            unmanaged.__exit__(None, None, None)
        return self._keep(exit_autocast, (entered,))

    def _is_told(self) -> bool:
        """Say whether `torch.autocast` itself calls, which it does with all modes in place."""
        return any(mode is self for mode in function_mode_stack())

    def _transform(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        node = self._recorder.call(function, args, kwargs, function.__name__)
        result = function(*args, **kwargs)
        untransformed: AbstractContextManager[Any] = nullcontext()
        if id(function) in _FORWARD_AD:
            # A snapshot of a tensor would be wrapped once more by the transform in progress.
            untransformed = disable_transforms()
        with untransformed:
            self._track(result, node)
        return result

    def _track(self, value: Any, node: Node) -> None:
        """Let `node` stand for a value.

        What is wrapped by a transform is described with the help of operators, which are recorded
        as any other; they must find the slot.
        """
        if isinstance(value, Tensor):
            self._recorder.slots.set(value, Slot(node))
            self._recorder.track(value, node)
        elif isinstance(value, tuple):
            self._recorder.values.annotate(node, value)
            for index, item in enumerate(value):
                self._track(item, self._recorder.item(node, index))
