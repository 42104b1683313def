"""Images of a scan in a window while they grow.

The window has a process of its own: a plotting library wants the main thread, which belongs to the RunEngine, and what
happens to the window must not happen to the scan. It is sent the images several times a second, and ends with the
process that opened it.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from ..analysis.scan_images import ScanImages

PERIOD = 0.1
"""Time [s] between two pictures; drawing one takes some 0.2 s."""

log = logging.getLogger(__name__)


class LiveWindow:
    """A window that follows images.

    Parameters
    ----------
    images : callable
        Gives what was measured so far.

    Attributes
    ----------
    pictures : int
        That the window has drawn.
    """

    def __init__(self, images: Callable[[], ScanImages]) -> None:
        self._images = images
        self.pictures = 0
        self._process: subprocess.Popen | None = None
        self._over = threading.Event()

    @property
    def shown(self) -> bool:
        """Whether the window is open."""
        return self._process is not None and self._process.poll() is None

    def show(self) -> bool:
        """Open the window, unless it is open; False, and a word in the log, where there is no display."""
        if self.shown:
            return True
        if not has_display():
            log.warning("there is no display (DISPLAY and WAYLAND_DISPLAY are not set): no window; use write_png")
            return False
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self._over = threading.Event()
        arguments = (Connection(ours.detach()), self._process, self._over)
        threading.Thread(target=self._feed, args=arguments, name="imaging window", daemon=True).start()
        return True

    def close(self) -> None:
        """Close the window."""
        self._over.set()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _feed(self, connection: Connection, process: subprocess.Popen, over: threading.Event) -> None:
        last = None
        try:
            while not over.is_set() and process.poll() is None:
                images = self._images()
                if images.frames != last:
                    connection.send(images)
                    connection.recv()  # it has drawn them: it is never sent more than it can draw
                    last = images.frames
                    self.pictures += 1
                over.wait(PERIOD)
        except (OSError, EOFError):
            return  # the window was closed
        finally:
            connection.close()


def has_display() -> bool:
    """Whether a window can be shown, or a plotting backend that needs none is asked for."""
    if os.environ.get("MPLBACKEND"):
        return True
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _serve(connection: Connection) -> None:
    """Draw what comes until the other end, or the window, is closed."""
    import matplotlib.pyplot as plt

    from .imaging_pictures import draw, update

    figure = plt.figure("Imaging", figsize=(16, 8), layout="constrained")
    plt.show(block=False)
    os.nice(5)  # the scan comes first
    last: ScanImages | None = None
    while plt.fignum_exists(figure.number):
        try:
            if connection.poll():
                images = connection.recv()
                if last is not None and last.names == images.names and last.grid == images.grid:
                    figure.set_layout_engine("none")
                    update(images, figure)
                else:
                    figure.set_layout_engine("constrained")
                    draw(images, figure)
                last = images
                figure.canvas.draw()
                connection.send("drawn")
        except (EOFError, OSError, pickle.UnpicklingError):
            return
        figure.canvas.start_event_loop(0.05) if _interactive() else connection.poll(0.05)


def _interactive() -> bool:
    from matplotlib import get_backend
    from matplotlib.backends import BackendFilter, backend_registry

    return get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
