"""Higher-order operators (HOPs): a name, an eager definition and one rule for each interpreter.

Define one in a package of your own and bind it::

    from hopyard_hookspecs import Hop
    from hopyard.hops import bind

    def scaled(body, *operands, factor):
        return factor * body(*operands)

    SCALE = Hop("my_plugin__scale", eager=scaled)
    scale = bind(SCALE)

    scale(torch.sin, x, factor=2.0)     # in eager: exactly factor * body(x)

With nothing active a call *is* a call of the eager definition, so that whatever a body closes over
gets its gradient. A tracer keeps the call as one node whose first operand is the body as a graph.
Tensors, parameters and symbolic numbers that the body closes over are operands after those that
were given; a gradient, if one is wanted, is traced beside the body, when the call is recorded.
Everything that records nothing sees through to the eager definition: dispatch modes that nobody has
heard of, tensor subclasses, vmap, grad, jvp and jacrev.

Each surface has a default rule, which a definition replaces in `Hop.rules`. :data:`SURFACES` lists
the surfaces and how a rule of each is called: with the call's operands and configuration, after
what the surface adds, such as the operator or the tracer. A rule may call the operator again, for
the surface below, or `operator.see_through(*args, **config)`, which runs the eager definition.

`torch.compile` and strict `torch.export` keep a region; :func:`compiler_support` tells whether this
version of torch lets them. Inductor sees the operators of the eager definition, unless a rule for
"inductor" lowers the call.
"""

from __future__ import annotations

from ._effects import Effects as Effects
from ._effects import effects_of_call as effects_of_call
from ._operator import Operator as Operator
from ._operator import is_eager as is_eager
from ._operator import is_traced as is_traced
from ._provider import provider_of as provider_of
from ._registry import bind as bind
from ._registry import bound as bound
from ._rules import SURFACES as SURFACES
from .compiled import compiler_support as compiler_support
