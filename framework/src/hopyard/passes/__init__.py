"""What passes are made of.

A pass is anything that is called with a graph and returns a :class:`hopyard_hookspecs.PassResult`.
Here are bases for passes that edit a graph and for passes that build another one, rewriting by
pattern, and adapters for passes that were written for torch or ExecuTorch.

Importing this package loads torch.
"""

from __future__ import annotations

from ._adapted import adapted as adapted
from ._bases import FunctionalPass as FunctionalPass
from ._bases import InPlacePass as InPlacePass
from ._metadata import refresh_values as refresh_values
from ._rewrite import Match as Match
from ._rewrite import Rewrite as Rewrite
