"""The types of what the nodes of a graph call.

`torch.ops.aten.add.Tensor` is an :class:`OpOverload` of `torch.ops.aten.add`, which is an
:class:`OpOverloadPacket`. `torch.ops.higher_order.cond` is a :class:`HigherOrderOperator`, as is
every :class:`hopyard.hops.Operator`.
"""

from __future__ import annotations

from ._torch.dispatch import HigherOrderOperator as HigherOrderOperator
from ._torch.dispatch import OpOverload as OpOverload
from ._torch.dispatch import OpOverloadPacket as OpOverloadPacket
