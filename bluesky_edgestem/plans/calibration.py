"""How the detector is turned against the scan, measured on the specimen."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bluesky.utils import Msg, MsgGenerator

from ..analysis.optics import Optics
from ..analysis.scan_rotation import ScanRotation, scan_rotation
from ..callbacks.derived import DerivedStream, integer, number
from ..callbacks.imaging import Imaging
from ..devices.microscope import Microscope
from ..geometry import FieldOfView, ScanGrid
from .beam import as_field
from .publishing import declare
from .survey import Survey


def rotation_stream() -> DerivedStream:
    """The stream ``scan_rotation``: one row, at the end of the run."""
    columns = {
        "rotation": number("from the axes of the scan to those of the detector, counter-clockwise", "rad"),
        "rotation_sd": number("standard deviation", "rad"),
        "mirrored": integer("1 where the rows of a frame run the other way"),
        "direction_known": integer("1 where the rotation is told from the one that differs by π"),
        "curl_share": number("what remains as curl, of the power of divergence and curl: 0 for a gradient, 1/2 noise"),
        "other_share": number("the same if the detector were mirrored the other way"),
    }
    return DerivedStream("scan_rotation", columns)


def calibrate_rotation(
    microscope: Microscope,
    field_of_view: FieldOfView | Sequence[float],
    nx: int = 48,
    ny: int = 48,
    *,
    optics: Optics | dict[str, Any] | None = None,
    dwell_time: float | None = None,
    max_dose: float = 1e7,
    centre: tuple[float, float] | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[ScanRotation]:
    """Measure the rotation from the axes of the scan to those of the detector, by a short raster over the specimen.

    The field of the deflections has no curl in the axes of the scan; see `analysis.scan_rotation`. What the specimen
    should have is an edge that is not straight, of a particle or of its own, or any other structure that deflects the
    beam in more than one direction and that the step of the raster resolves.

    Parameters
    ----------
    microscope, field_of_view, nx, ny, optics, dwell_time, max_dose, md
        As for `raster_map`.
    centre : (x, y), optional
        As for `Imaging`.

    Returns
    -------
    ScanRotation
        Its `rotation` and `mirrored` are what `Imaging` and `StrainMap` take. In the run it is the stream
        ``scan_rotation``.

    Raises
    ------
    WeakSignal
        The deflections do not tell. The run fails; its frames and images are kept.
    """
    field = as_field(field_of_view)
    grid = ScanGrid(field, nx, ny)
    imaging = Imaging(centre=centre)

    found: ScanRotation | None = None

    def conclude() -> MsgGenerator[None]:
        nonlocal found
        found = scan_rotation(imaging.images())
        stream = rotation_stream()
        yield from declare([stream])
        stream.put({key: int(value) if isinstance(value, bool) else value for key, value in asdict(found).items()})
        yield Msg("collect", stream, name=stream.name)

    metadata = {"plan_name": "calibrate_rotation", "shape": [ny, nx], **(md or {})}
    survey = Survey(optics, dwell_time, max_dose, imaging=imaging)
    yield from survey.over(microscope, field, grid.positions, metadata, conclude)
    assert found is not None
    return found
