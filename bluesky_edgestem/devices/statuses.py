"""Statuses that say what they wait for and why they failed, and how to put them one after another."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ophyd.status import StatusBase
from ophyd.utils import InvalidState


class LostConnection(ConnectionError):
    """A PV went away while something depended on it."""


class NamedStatus(StatusBase):
    """A status whose text is what it waits for and, once it failed, why: the RunEngine puts it into the stop document.

    Parameters
    ----------
    what : str
        What is being waited for, in words that name the PV.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` after `seconds` unless this is done before."""
        timer = threading.Timer(seconds, do)
        timer.daemon = True
        timer.start()
        self.add_callback(lambda _: timer.cancel())

    def finish(self) -> None:
        """Mark as done, unless it is already."""
        self._settle(None)

    def fail(self, error: Exception) -> None:
        """Mark as failed, unless it is done already."""
        self._settle(error)

    def _settle(self, error: Exception | None) -> None:
        # Monitors, put completions and timers race for the end of a status; the first one counts.
        try:
            if error is None:
                self.set_finished()
            else:
                self.set_exception(error)
        except InvalidState:
            return

    def __repr__(self) -> str:
        error = getattr(self, "_exception", None)
        return self.what if error is None else f"{self.what}: {error}"

    __str__ = __repr__


def in_order(what: str, *steps: Callable[[], StatusBase]) -> NamedStatus:
    """Start each step when the one before has succeeded; done after the last, failed with the first that fails."""
    whole = NamedStatus(what)
    waiting = iter(steps)

    def advance(previous: StatusBase | None = None) -> None:
        if previous is not None and not previous.success:
            whole.fail(previous.exception() or RuntimeError(str(previous)))
            return
        try:
            step = next(waiting, None)
            if step is None:
                whole.finish()
            else:
                step().add_callback(advance)
        except Exception as error:
            whole.fail(error)

    advance()
    return whole


def together(what: str, *statuses: StatusBase) -> NamedStatus:
    """Done when all of `statuses` are; failed with the first that fails."""
    return in_order(what, *[lambda status=status: status for status in statuses])


def in_thread(what: str, do: Callable[[], object]) -> NamedStatus:
    """`do` in a thread of its own: done when it returns, failed with what it raises."""
    status = NamedStatus(what)

    def work() -> None:
        try:
            do()
        except Exception as error:
            status.fail(error)
        else:
            status.finish()

    threading.Thread(target=work, name=what, daemon=True).start()
    return status
