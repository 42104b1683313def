"""Soft-IOC of the scan coils: step the probe, or fly a list of positions and trigger the detector at each."""

from __future__ import annotations

import asyncio
import math

import numpy as np

from .column import Column
from .records import Paced, Records, RefusedWrite, array, choice, integer, number, setting, text

MAX_POSITIONS = 65536


class ScanCoilsIOC(Records):
    """Scan coils. A flight moves to each position of the list, settles, triggers the detector and waits for it."""

    x, x_rbv = setting(number, "X", 0.0, "nm", "Probe position, to the right", low=-60, high=60)
    y, y_rbv = setting(number, "Y", 0.0, "nm", "Probe position, up", low=-60, high=60)
    settle, settle_rbv = setting(
        number, "SettleTime", 1e-3, "s", "Wait between a move and the exposure", low=0, high=10
    )
    positions_x, positions_x_rbv = setting(array, "PositionsX", MAX_POSITIONS, "nm", "Positions to fly, x")
    positions_y, positions_y_rbv = setting(array, "PositionsY", MAX_POSITIONS, "nm", "Positions to fly, y")
    fly = choice(
        "Fly",
        "Done",
        ("Done", "Fly", "Fly on"),
        "Start a flight over the list; busy until it has ended. Fly on: then over what the board has added meanwhile",
    )
    pause = choice("Pause", "Go", ("Go", "Pause"), "Hold a flight before its next position, or go on")
    abort = choice("Abort", "Done", ("Done", "Abort"), "End a flight; the probe stays where it is")
    index = integer("Index_RBV", 0, "Positions of the list already exposed", read_only=True)
    state = choice(
        "State_RBV",
        "Idle",
        ("Idle", "Moving", "Flying", "Paused", "Aborted", "Error"),
        "What the coils do; Aborted and Error last until the next move or flight",
        read_only=True,
    )
    queue_limit, queue_limit_rbv = setting(
        integer, "QueueLimit", 0, "Positions that the board may add to a flight that flies on", low=0, high=65536
    )
    queue_series, queue_series_rbv = setting(
        integer, "QueueSeries", 0, "The detector's number of the series of that flight", low=0, high=2**31 - 1
    )
    queue_wait, queue_wait_rbv = setting(
        number, "QueueWait", 0.1, "s", "Wait for what the board still adds, the probe parked", low=0, high=10
    )
    queued = integer("Queued_RBV", 0, "Positions that the board added to the last flight", read_only=True)
    queue_x = array("QueueX_RBV", MAX_POSITIONS, "nm", "Their x", read_only=True)
    queue_y = array("QueueY_RBV", MAX_POSITIONS, "nm", "Their y", read_only=True)
    queue_cause = array("QueueCause_RBV", MAX_POSITIONS, "", "Frame that each is because of, from 0", read_only=True)
    message = text("Message_RBV", "", "Why the last write was refused, or the last flight ended early", read_only=True)

    def __init__(self, prefix: str, *, column: Column, scan_range: float = 120.0) -> None:
        super().__init__(prefix)
        self.column = column
        self.scan_range = scan_range
        self._flight: asyncio.Task | None = None
        self._go = asyncio.Event()
        self._go.set()
        self._positions: list[tuple[float, float]] = []
        self._causes: list[int] = []  # of those that the board added, which are the last
        self._asked = asyncio.Event()
        self._open = False  # whether the board may add
        self._cells: dict[tuple[int, int], list[tuple[float, float]]] = {}  # positions, in squares of `_side`
        self._side = 0.0
        self._index = Paced(self.index)
        self._x, self._y = Paced(self.x_rbv), Paced(self.y_rbv)

    @state.startup
    async def state(self, instance, async_lib):
        for record in (self.x, self.y):
            await record.write_metadata(
                lower_ctrl_limit=-self.scan_range / 2, upper_ctrl_limit=self.scan_range / 2, publish=False
            )

    @property
    def flying(self) -> bool:
        return self._flight is not None and not self._flight.done()

    async def _step(self, **to: float) -> None:
        if self.flying:
            raise RefusedWrite("the coils are flying; abort the flight first")
        await self.state.write("Moving")
        self.column.parked = False
        for axis, value in to.items():
            setattr(self.column, axis, value)
        await asyncio.sleep(self.settle.value)
        await self.x_rbv.write(self.column.x)
        await self.y_rbv.write(self.column.y)
        await self.state.write("Idle")

    @x.putter
    async def x(self, instance, value):
        await self._step(x=value)
        return value

    @y.putter
    async def y(self, instance, value):
        await self._step(y=value)
        return value

    def _checked(self, value) -> np.ndarray:
        if self.flying:
            raise RefusedWrite("the coils are flying this list; abort the flight first")
        positions = np.atleast_1d(np.asarray(value, float))
        limit = self.scan_range / 2
        outside = ~(np.abs(positions) <= limit)  # the negation catches NaN too
        if outside.any():
            first = int(np.flatnonzero(outside)[0])
            raise RefusedWrite(
                f"position {first} is {positions[first]:g} nm, outside -{limit:g} to {limit:g} nm ({outside.sum()} are)"
            )
        return positions

    @positions_x.putter
    async def positions_x(self, instance, value):
        await self.positions_x_rbv.write(self._checked(value))
        return value

    @positions_y.putter
    async def positions_y(self, instance, value):
        await self.positions_y_rbv.write(self._checked(value))
        return value

    @fly.putter
    async def fly(self, instance, value):
        if value == "Done":
            return value
        if self.flying:
            raise RefusedWrite("the coils are flying already")
        positions_x, positions_y = (np.atleast_1d(r.value) for r in (self.positions_x, self.positions_y))
        if len(positions_x) != len(positions_y):
            raise RefusedWrite(f"PositionsX has {len(positions_x)} positions but PositionsY has {len(positions_y)}")
        await instance.write(value, verify_value=False)  # busy, as an areaDetector record is
        self._flight = asyncio.create_task(self._fly(np.column_stack([positions_x, positions_y]), value == "Fly on"))
        await self._flight
        return "Done"

    async def _fly(self, positions: np.ndarray, on: bool) -> None:
        done = 0
        self.column.parked = False
        self._positions, self._causes, self._side = [(x, y) for x, y in positions.tolist()], [], 0.0
        self._open = on
        self._index.put(0)
        await self.queued.write(0)
        await self.state.write("Flying")
        end, why = "Idle", ""
        try:
            while done < len(self._positions) or await self._more(done):
                x, y = self._positions[done]
                if not self._go.is_set():
                    await self.state.write("Paused")
                    await self._go.wait()
                    await self.state.write("Flying")
                self.column.x, self.column.y = x, y
                self._x.put(x)
                self._y.put(y)
                await asyncio.sleep(self.settle.value)
                await self.column.trigger()
                done += 1
                self._index.put(done)
        except asyncio.CancelledError:
            end, why = "Aborted", f"aborted after {done} of {len(self._positions)} positions"
        except Exception as error:
            end, why = "Error", f"stopped after {done} of {len(self._positions)} positions: {error}"
        self._open = False  # in the step in which the loop ended: nothing is added that would not be flown
        self._go.set()
        await self.pause.write("Go", verify_value=False)
        for paced in (self._x, self._y, self._index):
            await paced.flush()
        await self._tell_queue(len(positions), done)
        if why:
            await self.say(why)
        await self.state.write(end)

    async def _more(self, done: int) -> bool:
        """Whether the board has added positions, once the list is flown; it may still be at the last frames."""
        if not self._open:
            return False
        self.column.parked = True  # or the last position would have the beam on it all the while
        self._asked.clear()
        try:
            if done == len(self._positions):
                await asyncio.wait_for(self._asked.wait(), self.queue_wait.value)
        except TimeoutError:
            self._open = False
            return False
        self.column.parked = False
        return True

    async def _tell_queue(self, listed: int, done: int) -> None:
        """Publish what was added and flown."""
        added, causes = self._positions[listed:done], self._causes[: max(done - listed, 0)]
        if added:
            x, y = np.array(added).T
            await self.queue_x.write(x)
            await self.queue_y.write(y)
            await self.queue_cause.write(np.array(causes, float))
        await self.queued.write(len(causes))

    def request(self, series: int, frame: int, spacing: float) -> None:
        """The board asks for four positions around that of a frame: those that are new, and that the coils reach."""
        if not self._open or series != self.queue_series.value or not 0 <= frame < len(self._positions):
            return
        x, y = self._positions[frame]
        for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
            if len(self._causes) >= self.queue_limit.value:
                return
            new = x + dx * spacing, y + dy * spacing
            if max(map(abs, new)) <= self.scan_range / 2 and not self._near(new, spacing / 2):
                self._positions.append(new)
                self._causes.append(frame)
                self._asked.set()

    def _near(self, new: tuple[float, float], side: float) -> bool:
        """Whether a position is nearer than `side` to one of this flight's; if not, it is from now on one of those."""
        if side != self._side:
            self._side, self._cells = side, {}
            for position in self._positions:
                self._cells.setdefault(self._cell(position), []).append(position)
        i, j = self._cell(new)
        around = [self._cells.get((i + k, j + m), ()) for k in (-1, 0, 1) for m in (-1, 0, 1)]
        if any(math.dist(new, other) < side for cell in around for other in cell):
            return True
        self._cells.setdefault((i, j), []).append(new)
        return False

    def _cell(self, position: tuple[float, float]) -> tuple[int, int]:
        return math.floor(position[0] / self._side), math.floor(position[1] / self._side)

    @pause.putter
    async def pause(self, instance, value):
        if value == "Go":
            self._go.set()
        elif self.flying:
            self._go.clear()
        else:
            raise RefusedWrite("there is no flight to pause")
        return value

    @abort.putter
    async def abort(self, instance, value):
        if value == "Abort" and self._flight is not None and not self._flight.done():
            self._flight.cancel()
            await asyncio.wait([self._flight])
        return "Done"
