"""Higher-order operators (HOPs): a name, an eager definition and one rule for each interpreter.

Define one in a package of your own and bind it::

    from hopyard_hookspecs import Hop
    from hopyard.hops import bind

    def scaled(body, *operands, factor):
        return factor * body(*operands)

    SCALE = Hop("my_plugin__scale", eager=scaled)
    scale = bind(SCALE)

    scale(torch.sin, x, factor=2.0)     # in eager: exactly factor * body(x)

A tracer keeps the call as one node whose first operand is the body as a graph. It does so if no
operand requires grad, for example because gradients are off: otherwise the default autograd rule
records the operators of the eager definition, so that gradients are right. Every other surface has
a default that sees through to the eager definition; :data:`SURFACES` lists those that a definition
may replace in `Hop.rules`.
"""

from __future__ import annotations

from ._effects import Effects as Effects
from ._effects import effects_of_call as effects_of_call
from ._operator import Operator as Operator
from ._operator import is_eager as is_eager
from ._provider import provider_of as provider_of
from ._registry import bind as bind
from ._registry import bound as bound
from ._rules import SURFACES as SURFACES
