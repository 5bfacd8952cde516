"""What our own dispatch modes have in common."""

from __future__ import annotations


class Infrastructure:
    """A dispatch mode that is not the user's; name it before torch's class among the bases."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch's wrapper around each operator costs more than a dispatch. A capture as a whole runs
        # outside Dynamo.
        return False

    @classmethod
    def is_infra_mode(cls) -> bool:
        """True: user modes take precedence."""
        return True
