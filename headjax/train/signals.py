"""Stopping in good order: SIGTERM and SIGINT as a request that is answered between two steps."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """The run was asked to stop and has kept what it needs to go on; exit code 0.

    Attributes:
        message: which signal came, and what is kept.
        agreed: all processes of the run stop at this very place.
    """

    def __init__(self, message: str, *, agreed: bool = False):
        super().__init__(0)
        self.message, self.agreed = message, agreed


@dataclasses.dataclass
class StopRequest:
    """Whether someone has asked this process to stop, and by which signal."""

    signal_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    @property
    def reason(self) -> str:
        """Why the run stops, here or at another process."""
        return self.signal_name or "another process was asked to stop"


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """Inside the block a signal raises `Interrupted` where it arrives."""

    def stop(number, _frame):
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    with _handling(stop):
        yield


@contextlib.contextmanager
def stopping_between_steps() -> Iterator[StopRequest]:
    """Inside the block the first signal only sets the yielded request; a second one raises."""
    request = StopRequest()

    def stop(number, _frame):
        name = signal.Signals(number).name
        if request:
            raise Interrupted(f"stopped by a second {name}, without saving")
        request.signal_name = name

    with _handling(stop):
        yield request


@contextlib.contextmanager
def _handling(handler) -> Iterator[None]:
    """Installs the handler, and puts the earlier ones back; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in earlier.items():
            signal.signal(number, old)
