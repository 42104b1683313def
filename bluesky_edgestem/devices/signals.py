"""EPICS signals that never wait forever, follow their PV by monitor, and believe a put only when they read it back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import ophyd
from ophyd import Device, EpicsSignal, EpicsSignalRO
from ophyd.device import DEFAULT_CONNECTION_TIMEOUT

from .statuses import LostConnection, NamedStatus

READ_TIMEOUT = 2.0
CONNECTION_TIMEOUT = 2.0
FOUND_WITHIN = 5.0
"""Time [s] that the PVs of a whole device have to be found."""
WRITE_TIMEOUT = 3.0
"""Time [s] for a put to complete and to be read back. ophyd's own default waits forever: an IOC that was killed then
hangs the caproto client, and completes the put on the pyepics one as if all were well."""
LOST_MEANWHILE = 0.1
"""Time [s] that a put waits for a connection which was there when it was asked for: ophyd would wait
`CONNECTION_TIMEOUT`, and pyepics after it without end, before the next step that makes the microscope safe."""
READBACK_GRACE = 1.0
"""Time [s] that a readback may come after its put has completed."""
SINGLE_PRECISION = 1e-6
"""By how much, relative to it, a number may change on its way through a record of single precision."""
CLOCK_STEP = 1e-6
"""Step [s] in which hardware may count a time."""
NAMED = 5
"""PVs that an error names one by one."""


def _get_timevars(pv: Any, timeout: float = 5, warn: bool = True) -> dict[str, Any] | None:
    """Time and alarm of `pv`, asked for with the whole of its value.

    pyepics asks for them with one element, and gives that to whoever asks for the value meanwhile: ophyd, and its
    users, while a PV connects. Of a text they read the first letter.
    """
    return pv.get_with_metadata(count=pv.nelm, form="time", use_monitor=False, timeout=timeout)


if ophyd.cl.name == "pyepics":
    from ophyd._pyepics_shim import PyepicsShimPV

    PyepicsShimPV.get_timevars = _get_timevars


def _timeout_of_put(completion: float | None) -> float | None:
    """What ophyd's ``put`` is given as `timeout` [s]; `completion` is how long the put may take to complete.

    pyepics waits so long for a connection that was lost since ophyd looked, with None ten years, and never for the
    completion, which calls back. caproto waits so long for either, and calls back for no completion after it.
    """
    return LOST_MEANWHILE if ophyd.cl.name == "pyepics" else completion


def _wait_briefly(pv: Any) -> None:
    """Have pyepics' ``put`` to `pv` wait `LOST_MEANWHILE` for a connection lost since; by itself it waits seconds."""
    if ophyd.cl.name == "pyepics":
        pv.connection_timeout = LOST_MEANWHILE


class _Bounded:
    """Timeouts for these signals alone: `EpicsSignalBase.set_defaults` would change every device of the session."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("timeout", READ_TIMEOUT)
        kwargs.setdefault("connection_timeout", CONNECTION_TIMEOUT)
        kwargs.setdefault("auto_monitor", True)
        super().__init__(*args, **kwargs)

    def get(self, *, use_monitor: bool | None = None, **kwargs: Any) -> Any:
        """As ophyd's; what is asked of the IOC, rather than taken from the last monitor, comes whole.

        pyepics would ask for as many elements as the last monitor had.
        """
        if use_monitor is False:
            self.wait_for_connection(timeout=kwargs.get("connection_timeout", self.connection_timeout))  # type: ignore[attr-defined]
            kwargs.setdefault("count", self._read_pv.nelm)  # type: ignore[attr-defined]
        return super().get(use_monitor=use_monitor, **kwargs)  # type: ignore[misc]

    @property
    def latest(self) -> Any:
        """The value of the last monitor, without going to the network; None before the first."""
        value = self._readback  # type: ignore[attr-defined]
        return value if isinstance(value, str | int | float | np.ndarray | np.generic) else None

    @property
    def answers(self) -> bool:
        """Whether its PVs answer now.

        `connected` says so only once ophyd's callbacks have come round to it: until then a put to a lost IOC would wait
        for a connection, seconds each, before the next step that makes the microscope safe.
        """
        return self.connected and not self.missing  # type: ignore[attr-defined]

    @property
    def missing(self) -> list[str]:
        """Names of its PVs that do not answer."""
        pvs = (getattr(self, "_read_pv", None), getattr(self, "_write_pv", None))
        return list(dict.fromkeys(pv.pvname for pv in pvs if pv is not None and not pv.connected))


class ReadSignal(_Bounded, EpicsSignalRO):
    """A read-only PV."""


class SetSignal(_Bounded, EpicsSignal):
    """A PV ``NAME`` that is read back as ``NAME_RBV``; `set` is done when it has been.

    Parameters
    ----------
    pv : str
        The setting's PV.
    rtolerance, tolerance : float
        By how much a readback may differ from what was written, ``tolerance + rtolerance |written|``: by default no
        more than single precision does. A PV of whole numbers has to agree.
    """

    def __init__(self, pv: str, **kwargs: Any) -> None:
        kwargs.setdefault("write_timeout", WRITE_TIMEOUT)
        kwargs.setdefault("rtolerance", SINGLE_PRECISION)
        # ophyd would take it from the record's PREC, which is a matter of display: 1 ms for many an exposure.
        kwargs.setdefault("tolerance", 0.0)
        super().__init__(f"{pv}_RBV", write_pv=pv, put_complete=True, **kwargs)

    def set(self, value: Any, *, timeout: float | None = None, settle_time: float | None = None) -> NamedStatus:
        """Write `value`; done once the put has completed and the readback agrees.

        Parameters
        ----------
        value : float, int, str or numpy.ndarray
            What to write; the name of the state where the PV has named states.
        timeout : float, optional
            Time for both [s]; `WRITE_TIMEOUT` by default.

        Returns
        -------
        NamedStatus
            Fails where the connection is lost, the IOC does not answer, or the readback is not `value`.

        Raises
        ------
        ValueError
            The PV has no state of that name; nothing is written.
        """
        self.check_value(value)
        if isinstance(value, str) and (names := self.enum_strs) and value not in names:
            raise ValueError(f"{self.setpoint_pvname} has no state {value!r}; its states are {', '.join(names)}")
        shown = f"{np.size(value)} values" if np.ndim(value) else repr(value)
        status = NamedStatus(f"set {self.setpoint_pvname} to {shown}")
        completed = threading.Event()

        def follow(*_: Any, **__: Any) -> None:
            if completed.is_set() and self._agrees(value, tolerance):
                status.finish()

        def complain() -> None:
            if not completed.is_set() and self._agrees(value, tolerance):  # which it may have read before
                status.fail(TimeoutError(f"the IOC of {self.setpoint_pvname} did not answer within {allowed:g} s"))
                return
            reason = getattr(getattr(self.parent, "message", None), "latest", None)
            status.fail(
                ValueError(
                    f"{self.setpoint_pvname} was set to {shown} but {self.pvname} reads {self._shown()}"
                    + (f"; its IOC says: {reason}" if reason else "")
                )
            )

        def complete(*_: Any, **__: Any) -> None:
            completed.set()
            follow()
            if not status.done:
                status.after(READBACK_GRACE, complain)

        watch((self,), status)
        if not self.answers:  # a put would wait for the connection first
            return status
        tolerance = float(self.tolerance)  # now: it may need the PVs
        self.subscribe(follow, event_type=self.SUB_VALUE, run=False)
        status.add_callback(lambda _: self.clear_sub(follow))
        # caproto's client never completes a put that the IOC refused
        allowed = (timeout or self.write_timeout) + (settle_time or 0)
        status.after(allowed, complain)
        _wait_briefly(self._write_pv)
        try:
            self.put(
                value,
                force=True,
                callback=complete,
                use_complete=True,
                timeout=_timeout_of_put(allowed),
                connection_timeout=LOST_MEANWHILE,
            )
        except Exception as error:
            status.fail(LostConnection(f"cannot write {self.setpoint_pvname}: {error}"))
        return status

    def _agrees(self, written: Any, tolerance: float) -> bool:
        """Whether the readback is `written`, as far as the hardware can say it."""
        read = self.latest
        if read is None or isinstance(written, str):
            return read is not None and str(read) == written
        shown, wanted = np.ravel(read), np.ravel(written)  # a waveform of one value is read as a scalar
        if shown.shape != wanted.shape:
            return False
        if shown.dtype.kind in "iu":
            return bool((shown == wanted).all())
        return bool((np.abs(shown - wanted) <= tolerance + self.rtolerance * np.abs(wanted)).all())

    def _shown(self) -> str:
        return f"{np.size(self.latest)} values" if np.ndim(self.latest) else repr(self.latest)


class TimeSignal(SetSignal):
    """A time [s], which hardware rounds to steps of its clock; the readback is what holds."""

    def __init__(self, pv: str, **kwargs: Any) -> None:
        super().__init__(pv, **{"rtolerance": 1e-3, "tolerance": CLOCK_STEP, **kwargs})


class BusySignal(_Bounded, EpicsSignal):
    """A busy record: writing 1 starts something and the put completes at its end; writing 0 ends it."""

    def start(self, ended: Callable[[], None], value: int = 1) -> None:
        """Write `value`, without waiting; `ended` is called when the record says that it is over, or was refused.

        Raises
        ------
        LostConnection
            The IOC is not there.
        """
        self._write(value, _timeout_of_put(None), use_complete=True, callback=lambda *_, **__: ended())

    def begin(self) -> None:
        """Write 1, without waiting; raises as `start` does."""
        self._write(1, LOST_MEANWHILE, use_complete=False)

    def end(self) -> None:
        """Write 0, without waiting; raises as `start` does."""
        self._write(0, LOST_MEANWHILE, use_complete=False)

    def _write(self, value: int, timeout: float | None, **kwargs: Any) -> None:
        lost = f"no connection to {self.pvname}; its IOC has ended or cannot be reached"
        if not self.answers:  # a put would wait for it
            raise LostConnection(lost)
        _wait_briefly(self._write_pv)
        try:
            self.put(value, force=True, connection_timeout=LOST_MEANWHILE, timeout=timeout, **kwargs)
        except Exception as error:  # each of ophyd's control layers has its own
            raise LostConnection(f"{lost} ({error})") from error
        if not self.answers:  # pyepics' put to a lost PV says nothing
            raise LostConnection(lost)


AnySignal = ReadSignal | SetSignal | BusySignal


def watch(signals: tuple[AnySignal, ...], status: NamedStatus) -> None:
    """Fail `status` as soon as one of `signals` loses its connection, with an error that names the PV."""
    for signal in signals:

        def changed(connected: bool = True, obj: Any = signal, **_: Any) -> None:
            if not connected:
                status.fail(
                    LostConnection(
                        f"lost the connection to {obj.pvname}; its IOC has ended or cannot be reached. "
                        "Restart it, then run again"
                    )
                )

        signal.subscribe(changed, event_type="meta", run=False)
        status.add_callback(lambda _, signal=signal, changed=changed: signal.clear_sub(changed))
        changed(connected=signal.answers, obj=signal)


def signals_of(device: Device, include_lazy: bool = False) -> tuple[AnySignal, ...]:
    """Every signal of `device` and its parts that is a PV."""
    walked = (walk.item for walk in device.walk_signals(include_lazy=include_lazy))
    return tuple(signal for signal in walked if isinstance(signal, AnySignal))


def what_is_missing(device: Device, include_lazy: bool = False) -> str:
    """Which PVs of `device` do not answer, in one line that names up to `NAMED` of them; "" where all do."""
    signals = signals_of(device, include_lazy)
    missing = [name for signal in signals for name in signal.missing]
    if not missing:
        return ""
    if any(signal.connected for signal in signals):
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        what = f"no answer from {', '.join(missing[:NAMED])}{more}"
    else:
        whose = f"under {device.prefix}" if device.prefix else f"of {device.name}"
        what = f"no PV {whose} answers ({len(missing)} missing, first {missing[0]})"
    return f"{what}: is the IOC running, and does EPICS_CA_ADDR_LIST reach it?"


class NamingDevice(Device):
    """A device that names the PVs which do not answer."""

    def wait_for_connection(self, all_signals: bool = False, timeout: Any = DEFAULT_CONNECTION_TIMEOUT) -> None:
        """Wait until every PV answers.

        Raises
        ------
        TimeoutError
            Some, or all, do not; it names the first of them.
        """
        try:
            super().wait_for_connection(all_signals=all_signals, timeout=timeout)
        except TimeoutError as error:
            if told := what_is_missing(self, all_signals):
                raise TimeoutError(told) from None
            raise error


def wait_until(
    signal: AnySignal,
    accept: Callable[[Any], bool],
    what: str,
    timeout: float | None = WRITE_TIMEOUT,
    reason: AnySignal | None = None,
) -> NamedStatus:
    """Done once `signal` has a value that `accept` takes.

    Fails on a lost connection or after `timeout` [s], with the text of `reason` where there is one.
    """
    status = NamedStatus(what)

    def changed(*_: Any, **__: Any) -> None:
        if signal.latest is not None and accept(signal.latest):
            status.finish()

    def give_up() -> None:
        why = f"; its IOC says: {reason.latest}" if reason is not None and reason.latest else ""
        status.fail(TimeoutError(f"{signal.pvname} is still {signal.latest!r} after {timeout:g} s{why}"))

    watch((signal,), status)
    signal.subscribe(changed, run=False)
    status.add_callback(lambda _: signal.clear_sub(changed))
    if timeout is not None:
        status.after(timeout, give_up)
    changed()
    return status


def start_busy(busy: BusySignal, running: AnySignal, states: tuple[str, ...], reason: AnySignal) -> NamedStatus:
    """Start a busy record; done once `running` is in one of `states`, failed with the text of `reason` if refused."""
    status = wait_until(running, lambda value: value in states, f"start {busy.pvname}", reason=reason)

    def ended() -> (
        None
    ):  # before it ran: the IOC refused. (caproto's client does not call this then; the timeout does.)
        def complain() -> None:
            status.fail(RuntimeError(f"{busy.pvname} was refused; its IOC says: {reason.latest or 'nothing'}"))

        status.after(0.2, complain)  # the reason's monitor may come after

    try:
        busy.start(ended)
    except Exception as error:
        status.fail(LostConnection(f"cannot write {busy.pvname}: {error}"))
    return status
