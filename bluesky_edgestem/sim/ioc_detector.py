"""Soft-IOC of the pixelated detector's driver, under the names of areaDetector's ADEiger."""

from __future__ import annotations

import asyncio

from .column import Column
from .frames import Renderer
from .ioc_hdf import HDFPluginIOC
from .records import Paced, Records, RefusedWrite, choice, integer, logger, number, setting, text
from .stream_tap import StreamTap, TappedSeries

TRIGGER_MODES = ("Internal Series", "Internal Enable", "External Series", "External Enable", "External Gate")
SIMULATED_MODES = ("Internal Series", "External Series")
DETECTOR_STATES = (
    "Idle",
    "Acquire",
    "Readout",
    "Correct",
    "Saving",
    "Aborting",
    "Error",
    "Waiting",
    "Initializing",
    "Disconnected",
    "Aborted",
)
DATA_TYPES = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32")
BACKLOG = 16
"""Frames under way between exposure and file; a full backlog keeps the coils waiting, as a full detector buffer."""


class EigerIOC(Records):
    """Pixelated detector. Series of NumImages exposures, at each trigger of the coils or on its own."""

    acquire = choice("Acquire", "Done", ("Done", "Acquire"), "Arm or start; busy until all frames are read out")
    acquire_time, acquire_time_rbv = setting(number, "AcquireTime", 1e-3, "s", "Exposure", low=1e-6, high=100)
    acquire_period, acquire_period_rbv = setting(
        number, "AcquirePeriod", 1e-3, "s", "From one exposure of a series to the next", low=1e-6, high=100
    )
    num_images, num_images_rbv = setting(integer, "NumImages", 1, "Frames per trigger", low=1, high=10**6)
    num_triggers, num_triggers_rbv = setting(integer, "NumTriggers", 1, "Triggers per acquisition", low=1, high=10**6)
    trigger_mode, trigger_mode_rbv = setting(
        choice,
        "TriggerMode",
        "Internal Series",
        TRIGGER_MODES,
        f"Simulated are {' and '.join(SIMULATED_MODES)}",
    )
    array_callbacks, array_callbacks_rbv = setting(
        choice, "ArrayCallbacks", "Enable", ("Disable", "Enable"), "Hand frames to the plugins"
    )
    array_counter, array_counter_rbv = setting(integer, "ArrayCounter", 0, "Frames since this was last set")
    images_counter = integer("NumImagesCounter_RBV", 0, "Frames of this acquisition", read_only=True)
    sequence_id = integer("SequenceId", 0, "Number of the series since the detector was initialised", read_only=True)
    armed = choice("Armed", "Unarmed", ("Unarmed", "Armed"), "Whether triggers are taken", read_only=True)
    detector_state = choice("DetectorState_RBV", "Idle", DETECTOR_STATES, "What the detector does", read_only=True)
    message = text("StatusMessage_RBV", "", "Why the last write was refused or the acquisition failed", read_only=True)
    size_x = integer("ArraySizeX_RBV", 0, "Columns of a frame", read_only=True)
    size_y = integer("ArraySizeY_RBV", 0, "Rows of a frame", read_only=True)
    max_size_x = integer("MaxSizeX_RBV", 0, "Columns of the sensor", read_only=True)
    max_size_y = integer("MaxSizeY_RBV", 0, "Rows of the sensor", read_only=True)
    data_type = choice("DataType_RBV", "UInt16", DATA_TYPES, "Of a pixel", read_only=True)
    bit_depth = integer("BitDepthImage_RBV", 16, "Bits of a pixel", read_only=True)
    manufacturer = text("Manufacturer_RBV", "bluesky-edgestem", "Maker", read_only=True)
    model = text("Model_RBV", "Simulated pixelated detector", "Model", read_only=True)

    def __init__(
        self,
        prefix: str,
        *,
        column: Column,
        renderer: Renderer,
        plugin: HDFPluginIOC,
        tap: StreamTap | None = None,
    ) -> None:
        super().__init__(prefix)
        self.column, self.renderer, self.plugin, self.tap = column, renderer, plugin, tap
        self._task: asyncio.Task | None = None
        self._number = 0  # of frames since the IOC started: each has counting noise of its own
        self._total = 0
        self._counter = Paced(self.images_counter)
        self._array_counter = Paced(self.array_counter_rbv)

    @detector_state.startup
    async def detector_state(self, instance, async_lib):
        for record in (self.size_x, self.size_y, self.max_size_x, self.max_size_y):
            await record.write(self.column.optics.n_pixels)
        await self.bit_depth.write(self.plugin.bit_depth)
        await self.data_type.write(f"UInt{self.plugin.bit_depth}")

    @trigger_mode.putter
    async def trigger_mode(self, instance, value):
        if value not in SIMULATED_MODES:
            raise RefusedWrite(f"{value!r} is not simulated; set one of {', '.join(SIMULATED_MODES)}")
        await self.trigger_mode_rbv.write(value)
        return value

    @array_counter.putter
    async def array_counter(self, instance, value):
        self._total = value
        self._array_counter.put(value)
        return value

    @property
    def acquiring(self) -> bool:
        return self._task is not None and not self._task.done()

    @acquire.putter
    async def acquire(self, instance, value):
        if value == "Done":
            if self._task is not None and not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task])
            return value
        if self.acquiring:
            raise RefusedWrite("the detector acquires already; write 0 to Acquire first")
        await instance.write("Acquire", verify_value=False)
        self._task = asyncio.create_task(self._acquire())
        await self._task
        return "Done"

    async def _acquire(self) -> None:
        per_trigger, triggers = self.num_images.value, self.num_triggers.value
        frames: asyncio.Queue = asyncio.Queue(BACKLOG)
        await self.sequence_id.write(self.sequence_id.value + 1)
        readout = asyncio.create_task(self._read_out(frames, self._tapped()))
        exposed = asyncio.Event()
        left = triggers

        async def triggered() -> None:
            nonlocal left
            if readout.done():
                raise RuntimeError(f"the detector failed: {self.message.value}")
            if left > 0:
                left -= 1
                for _ in range(per_trigger):
                    await self._expose(frames)
            if left == 0:
                exposed.set()

        self._counter.put(0)
        await self.say("")
        end = "Idle"
        try:
            if self.trigger_mode.value == "External Series":
                await self.detector_state.write("Waiting")
                self.column.listen(triggered)
                await self.armed.write("Armed")
                all_exposed = asyncio.create_task(exposed.wait())
                try:
                    await asyncio.wait([all_exposed, readout], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    all_exposed.cancel()
            else:
                await self.detector_state.write("Acquire")
                for _ in range(triggers):
                    await triggered()
        except asyncio.CancelledError:
            end = "Aborted"
        except Exception as error:
            logger.error("the acquisition failed: %s", error)
        self.column.listen(None)
        await self.armed.write("Unarmed")
        if not readout.done():
            await frames.put(None)  # what was exposed has cost dose: it is read out before the end, even of an abort
        try:
            await readout
        except Exception as error:
            end = "Error"
            await self.say(str(error))
        for paced in (self._counter, self._array_counter):
            await paced.flush()
        await self.plugin.flush()
        await self.detector_state.write(end)

    async def _expose(self, frames: asyncio.Queue) -> None:
        """Expose for AcquireTime where the probe is, and queue the frame."""
        position = self.column.x, self.column.y
        electrons = self.column.electrons(self.acquire_time.value)
        await asyncio.sleep(self.acquire_time.value)
        future = self.renderer.submit(position, electrons, self.column.optics, self._number)
        self._number += 1
        await frames.put((asyncio.wrap_future(future), position))

    def _tapped(self) -> TappedSeries | None:
        if self.tap is None:
            return None
        told = self.size_y, self.size_x, self.bit_depth, self.sequence_id, self.num_triggers, self.num_images
        ny, nx, bits, number, triggers, each = (int(record.value) for record in told)
        return TappedSeries(self.tap, number, (ny, nx), bits, triggers, each, float(self.acquire_time.value))

    async def _read_out(self, frames: asyncio.Queue, tapped: TappedSeries | None) -> None:
        """Hand the frames on in the order of their exposures, until a None."""
        n = 0
        while (exposure := await frames.get()) is not None:
            future, (x, y) = exposure
            frame = await future
            n += 1
            self._total += 1
            self._counter.put(n)
            self._array_counter.put(self._total)
            if tapped is not None:
                tapped.frame(frame)
            if self.array_callbacks.value == "Enable":
                await self.plugin.take(frame, x, y)
        if tapped is not None:
            tapped.end()
