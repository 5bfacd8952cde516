"""The bridge to compilers: what Dynamo and Inductor are told of an operator.

It leans on torch's inside. Where a version of torch lacks something, everything else in
:mod:`hopyard.hops` works as before, and :func:`compiler_support` says what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._inductor import is_inlined as is_inlined
from ._inductor import register as _register_lowering
from ._refusals import line_of as line_of
from ._refusals import reason_of as reason_of

if TYPE_CHECKING:
    from .._operator import Operator


def compiler_support() -> str:
    """Return why `torch.compile` and strict export cannot keep regions; "" if they can.

    They can with every version of torch that has what Hopyard needs of Dynamo.
    """
    try:
        from . import _dynamo as _dynamo
    except (ImportError, AttributeError) as error:
        return f"Dynamo of torch {torch.__version__} is not as Hopyard knows it: {error}"
    return ""


def install(operator: Operator) -> None:
    """Tell the compilers of an operator."""
    _register_lowering(operator)
    if compiler_support():
        return
    from ._dynamo import register

    register(operator)
