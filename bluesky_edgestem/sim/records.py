"""What the soft-IOCs' records have in common: settings with readbacks, and alarms on a refused write."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from caproto import AlarmSeverity, AlarmStatus, ChannelType
from caproto.server import PVGroup, pvproperty
from caproto.server.server import PvpropertyChar, PvpropertyDouble, PvpropertyEnum, PvpropertyInteger

logger = logging.getLogger("bluesky_edgestem.sim")

MAX_TEXT = 256
"""Characters of a text record, as areaDetector's."""


class RefusedWrite(ValueError):
    """A value that the IOC does not take; its text goes to the record's alarm and to the group's message."""


class _Alarmed:
    """A record that is in alarm from a refused write (which caproto sees to) to the next good one, and says why."""

    async def verify_value(self, data):
        try:
            data = await super().verify_value(data)  # type: ignore[misc]
        except Exception as error:
            await self.group.refused(self, error)  # type: ignore[attr-defined]
            raise
        if self.alarm.status == AlarmStatus.WRITE:  # type: ignore[attr-defined]
            await self.alarm.write(  # type: ignore[attr-defined]
                status=AlarmStatus.NO_ALARM, severity=AlarmSeverity.NO_ALARM
            )
        return data


class AlarmedDouble(_Alarmed, PvpropertyDouble):
    """DOUBLE record, scalar or waveform."""


class AlarmedInteger(_Alarmed, PvpropertyInteger):
    """LONG record."""


class AlarmedEnum(_Alarmed, PvpropertyEnum):
    """Record with named states."""


class AlarmedText(_Alarmed, PvpropertyChar):
    """Text of more than 40 characters, as a waveform of CHAR (what areaDetector uses for paths)."""


class Records(PVGroup):
    """Records in which `name` is followed by its readback `name_rbv`, and a refused write raises an alarm.

    A write to a record without a putter of its own is copied to its readback, as areaDetector does. A group that has
    a `message` record says there why it refused a write.
    """

    type_map: ClassVar = {
        **PVGroup.type_map,
        float: AlarmedDouble,
        ChannelType.LONG: AlarmedInteger,
        ChannelType.ENUM: AlarmedEnum,
        str: AlarmedText,
    }

    async def group_write(self, instance, value):
        """Copy an accepted setting to its readback."""
        readback = getattr(self, f"{instance.pvspec.attr}_rbv", None)
        if readback is not None:
            await readback.write(value)
        return value

    async def refused(self, record, error: Exception) -> None:
        """Say why a write to `record` was refused."""
        text = f"{record.pvname}: {error}"
        logger.warning("refused: %s", text)
        await self.say(text)

    async def say(self, text: str) -> None:
        """Write `text` to the group's message, where it has one."""
        message = getattr(self, "message", None)
        if message is not None:
            await message.write(text[: MAX_TEXT - 1])


def _record(name: str, dtype: Any, value: Any, doc: str, **options: Any):
    low, high = options.pop("low", None), options.pop("high", None)
    if low is not None and not options.get("read_only"):
        options.update(lower_ctrl_limit=low, upper_ctrl_limit=high)
    # An alarm group each: caproto's default is one alarm for all records of a group.
    return pvproperty(name=name, dtype=dtype, value=value, doc=doc, alarm_group=name, **options)


def number(name: str, value: float, units: str, doc: str, **options: Any):
    """A DOUBLE record `name` in `units`; it keeps to the limits `low` and `high` [units]."""
    return _record(name, float, float(value), doc, units=units, precision=6, **options)


def integer(name: str, value: int, doc: str, **options: Any):
    """A LONG record `name`; it keeps to the limits `low` and `high`."""
    return _record(name, ChannelType.LONG, value, doc, **options)


def choice(name: str, value: str, states: tuple[str, ...], doc: str, **options: Any):
    """A record `name` with the named `states`."""
    return _record(name, ChannelType.ENUM, value, doc, enum_strings=list(states), **options)


def text(name: str, value: str, doc: str, **options: Any):
    """A text record `name` of up to 255 characters."""
    return _record(name, str, value, doc, max_length=MAX_TEXT, **options)


def array(name: str, length: int, units: str, doc: str, **options: Any):
    """A waveform `name` of up to `length` DOUBLE in `units`."""
    # caproto keeps a thousand monitors for a slow client: of long lists a few will do
    return _record(name, float, [0.0], doc, units=units, max_length=length, max_subscription_backlog=10, **options)


def setting(kind, name: str, *details: Any, **options: Any):
    """The record `name` and its readback `name_RBV`, both made by `kind` (`number`, `integer`, ...)."""
    *values, _ = details
    return kind(name, *details, **options), kind(
        f"{name}_RBV", *values, f"Readback of {name}", read_only=True, **options
    )


class Paced:
    """Publishes the latest of many values of one record, at most once every `period` [s].

    A monitor for each frame of a fast flight is lost without a word above about 1,000 a second.
    """

    def __init__(self, record, period: float = 0.02) -> None:
        self._record, self._period = record, period
        self.latest: Any = None
        self._task: asyncio.Task | None = None

    def put(self, value: Any) -> None:
        """Publish `value` now or, where one went out less than a period ago, at its end unless a later one comes."""
        self.latest = value
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._publish())

    async def flush(self) -> None:
        """Publish the latest value before anything else is published."""
        if self._task is not None:
            self._task.cancel()
            await self._record.write(self.latest)

    async def _publish(self) -> None:
        sent: Any = object()
        while sent is not self.latest:
            sent = self.latest
            await self._record.write(sent)
            await asyncio.sleep(self._period)
