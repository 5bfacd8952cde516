"""Failures that nobody foresaw, as one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import HopyardError


@contextmanager
def during(stage: str, doing: str, hint: str = "") -> Iterator[None]:
    """Attribute what is raised in the block, unless it says itself who is at fault.

    Args:
        stage: What the block is part of.
        doing: What raised, for the message.
        hint: What to do about it.

    Raises:
        HopyardError: The block raised something else; the location is the line in the user's code.
    """
    try:
        yield
    except HopyardError:
        raise
    except Exception as error:
        from ..tracing import raising_location

        raise HopyardError(
            f"{doing} raised {type(error).__name__}: {error}",
            hint=hint,
            stage=stage,
            location=raising_location(error.__traceback__),
        ) from error
