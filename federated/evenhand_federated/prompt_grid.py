"""Flower's grid, that looks for answers more often: Flower 1.41 looks every 3 seconds."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

__all__ = ["PromptGrid"]

_PAUSE_S = 0.2
"""Between two looks, which cost the link on the same machine some milliseconds each."""


class PromptGrid:
    """Another grid, whose answers are there soon after they have come.

    Args:
        inner: does the sending and fetching, and all else.
        sleep: between two looks.
        clock: seconds.
    """

    def __init__(
        self,
        inner: Grid,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._sleep = sleep
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        """All but the waiting is the inner grid's."""
        return getattr(self._inner, name)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, and wait for all answers, or as long as `timeout` says."""
        missing = set(self._inner.push_messages(messages))
        until = None if timeout is None else self._clock() + timeout
        replies: list[Message] = []
        while missing:
            came = list(self._inner.pull_messages(missing))
            replies += came
            missing -= {reply.metadata.reply_to_message_id for reply in came}
            if not missing or (until is not None and self._clock() >= until):
                break
            self._sleep(_PAUSE_S)
        return replies
