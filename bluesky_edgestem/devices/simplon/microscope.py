"""The microscope whose detector has no IOC: coils and beam over EPICS, a DECTRIS detector over its own interface."""

from __future__ import annotations

from typing import Any

from ophyd import FormattedComponent as FCpt

from ..microscope import Microscope
from .detector import SimplonDetector


class SimplonMicroscope(Microscope):
    """A `Microscope` with a `SimplonDetector`, triggered by the scan coils.

    The positions in its files are those asked for, as no IOC attaches the coils' readback to a frame.

    Parameters
    ----------
    prefix : str
        Of the PVs of coils and beam: ``Scan:`` and ``Beam:`` follow.
    host : str
        ``HOST`` or ``HOST:PORT`` of the detector's REST interface.
    name : str
    stream : str, optional
        Address of the detector's stream; by default the host's usual port.
    directory : str
        Folder that the frames go to.
    """

    detector = FCpt(SimplonDetector, "{self.host}", data_key="detector", positions=True)  # type: ignore[assignment]

    def __init__(
        self,
        prefix: str,
        *,
        host: str,
        name: str = "microscope",
        stream: str = "",
        directory: str = "/tmp",
        **kwargs: Any,
    ) -> None:
        self.host = host
        super().__init__(prefix, name=name, directory=directory, **kwargs)
        self.detector.stream = stream
