"""What a program costs: floating-point operations, and bytes that operators read and write.

Counting looks at sizes only. Nothing is run, no guard is added, and a symbolic size gives a
symbolic amount.
"""

from __future__ import annotations

from ._calls import Call as Call
from ._calls import Region as Region
from ._cost import CallCost as CallCost
from ._cost import Cost as Cost
from ._cost import Gap as Gap
from ._cost import cost_of_call as cost_of_call
from ._cost import cost_of_calls as cost_of_calls
from ._formulas import Formula as Formula
from ._formulas import formula_for as formula_for
from ._graphs import Costed as Costed
from ._graphs import calls_of as calls_of
from ._graphs import cost_of as cost_of
from ._graphs import cost_of_node as cost_of_node
from ._report import CostReport as CostReport
from ._report import Row as Row
from ._report import written as written
from ._values import Amount as Amount
from ._values import TensorSpec as TensorSpec
from ._values import specified as specified
