"""`functionalize`: graphs that write to tensors become graphs that do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hopyard.program import Program, functionalized

if TYPE_CHECKING:
    from hopyard.session import Session


@dataclass(frozen=True)
class Functionalize:
    """Replace operators that write to a tensor by such that return a new one.

    What the graph wrote to inputs, parameters and buffers is returned before its results, and
    written back when the program is called. Programs that Hopyard captured are like that already;
    those of `torch.export.export` need it if they write. Where a tensor that is written has views,
    the graph is traced again, by torch's own functionalization and below autograd.
    """

    def __call__(self, program: Program, session: Session) -> Program:
        """Return the pure program.

        Raises:
            ProgramError: A write cannot be expressed so.
        """
        return functionalized(program)
