"""Soft-IOC of the beam: blanker, current and the optics that frames are computed with."""

from __future__ import annotations

from dataclasses import replace

from .column import Column
from .records import Records, choice, number, setting, text


class BeamIOC(Records):
    """Beam blanker, beam current and the illumination."""

    blank, blank_rbv = setting(
        choice,
        "Blank",
        "Blanked",
        ("Unblanked", "Blanked"),
        "Keep the beam off the specimen; frames are then empty",
    )
    current, current_rbv = setting(
        number,
        "Current",
        16.021766,
        "pA",
        "Beam current; electrons per pattern = current x exposure / e",
        low=0,
        high=1e4,
    )
    energy, energy_rbv = setting(number, "Energy", 80.0, "keV", "Energy of the electrons", low=20, high=400)
    semiangle, semiangle_rbv = setting(number, "Semiangle", 2.0, "mrad", "Convergence semiangle", low=0.2, high=50)
    pixel, pixel_rbv = setting(
        number,
        "PixelAngle",
        0.5,
        "mrad",
        "Angle that one detector pixel spans (the camera length)",
        low=0.005,
        high=10,
    )
    message = text("Message_RBV", "", "Why the last write was refused", read_only=True)

    def __init__(self, prefix: str, *, column: Column) -> None:
        super().__init__(prefix)
        self.column = column

    @blank.startup
    async def blank(self, instance, async_lib):
        for record, value in (
            (self.current, self.column.current),
            (self.energy, self.column.optics.energy_keV),
            (self.semiangle, self.column.optics.semiangle_mrad),
            (self.pixel, self.column.optics.pixel_mrad),
        ):
            await record.write(value)

    @blank.putter
    async def blank(self, instance, value):
        self.column.blanked = value == "Blanked"
        await self.blank_rbv.write(value)
        return value

    @current.putter
    async def current(self, instance, value):
        self.column.current = value
        await self.current_rbv.write(value)
        return value

    @energy.putter
    async def energy(self, instance, value):
        self.column.optics = replace(self.column.optics, energy_keV=value)
        await self.energy_rbv.write(value)
        return value

    @semiangle.putter
    async def semiangle(self, instance, value):
        self.column.optics = replace(self.column.optics, semiangle_mrad=value)
        await self.semiangle_rbv.write(value)
        return value

    @pixel.putter
    async def pixel(self, instance, value):
        self.column.optics = replace(self.column.optics, pixel_mrad=value)
        await self.pixel_rbv.write(value)
        return value
