"""Ctrl-C while an engine works, whose own code may catch the interrupt and go on."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Remember an interrupt: what is yielded raises it again."""
    pressed = threading.Event()

    def press(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, press) if ours else None
    try:
        yield check
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
