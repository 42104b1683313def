"""A million damaged messages of each stream, through what the receiver does with a message: crashes, hangs, memory.

Seeded. First every single byte of every kind of message is replaced by each of the 255 others; then messages are
damaged at random: bytes, bits, ends, pieces of other messages, heads of CBOR that declare what is not there, numbers of
JSON that are too large or none, and parts that are missing or belong to another message. Each is
decoded as a message, by the reader for plain ones and by the general decoder, which have to agree; a frame passes the
gate of its series, which unpacks it, is reduced to sums, and decompressed for comparison. Messages are worked on in
processes of their own, so that a crash is counted and not the end; one that takes `HANG` ends its process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import numpy as np

from bluesky_edgestem.analysis.reductions import Reducer, Reduction
from bluesky_edgestem.sim.simplon_messages import MessagesV1, MessagesV2
from bluesky_edgestem.stream import blobs
from bluesky_edgestem.stream.encoding import MAX_RATIO, compress, decompress, nbytes
from bluesky_edgestem.stream.frames import Frames, raised
from bluesky_edgestem.stream.gate import Gate
from bluesky_edgestem.stream.messages import Messages
from bluesky_edgestem.stream.protocol_v1 import ProtocolV1
from bluesky_edgestem.stream.protocol_v2 import event as general_event
from bluesky_edgestem.stream.receiver import PROTOCOLS, VERIFY
from bluesky_edgestem.stream.series import Event, ProtocolError, Series

DISAGREED, LARGER = "ways of decoding that disagree", "larger than declared"
HANG = 5.0
"""Time [s] after which a message counts as one that hangs the receiver."""
SHAPE, FRAMES = (4, 64), 16  # of whole words, so that sums are taken from bit planes
CONFIG: dict[str, Any] = {
    "x_pixels_in_detector": SHAPE[1],
    "y_pixels_in_detector": SHAPE[0],
    "bit_depth_image": 16,
    "trigger_mode": "exte",
    "nimages": 1,
    "ntrigger": FRAMES,
    "count_time": 1e-3,
    "frame_time": 1.1e-3,
    "description": "fuzz",
    "detector_number": "S-1",
    "x_pixel_size": 1e-4,
    "y_pixel_size": 1e-4,
    "sensor_material": "Si",
    "sensor_thickness": 4.5e-4,
    "beam_center_x": 10.0,
    "beam_center_y": 6.0,
    "incident_energy": 8e4,
    "countrate_correction_count_cutoff": 65534,
}
SIZES = (1 << 16, 1 << 32, 1 << 62)
HEADS = [bytes([major << 5 | 27]) + size.to_bytes(8, "big") for major in range(8) for size in SIZES]
"""CBOR heads of each major type that declare a length, a count, a tag or a number of 8 bytes."""
SAID = [b"9" * 17, b"9" * 400, b"1e400", b"-1", b"01", b"null", b"[1,2]", b'"', b"{", b"\\u0031", b" ", b'"size":1,']
"""What JSON may say in another place."""


def messages(protocol: str) -> list[list[bytes]]:
    """One of each kind: start, frames in each encoding, end; for v2 of two channels, and column-major, too."""
    image = np.random.default_rng(0).poisson(0.3, SHAPE).astype(np.uint16)
    encodings = ("bslz4", "lz4-block" if protocol == "v1" else "lz4", "none")
    one = MessagesV1() if protocol == "v1" else MessagesV2(["threshold_1"])
    frames = [one.frame(7, 3, [compress(image, encoding)], 0.5, 0.75) for encoding in encodings]
    if protocol == "v1":
        frames.append(MessagesV1("appendix").frame(7, 4, [compress(image)], 0.5, 0.75))
    else:
        two = MessagesV2(["threshold_1", "threshold_2"])
        turned = compress(np.ascontiguousarray(image.T))._replace(shape=SHAPE, column_major=True)
        frames.append(two.frame(7, 3, [compress(image), compress(image)], 0.5, 0.75))
        frames.append(one.frame(7, 3, [turned], 0.5, 0.75))
    return [one.start(7, "basic", CONFIG, FRAMES), *frames, one.end(7)]


def every_byte(whole: list[list[bytes]]) -> Iterator[list[bytes]]:
    """Each message with each of its bytes replaced by each other one."""
    for message in whole:
        for k, part in enumerate(message):
            mutated = bytearray(part)
            for at, byte in enumerate(part):
                for other in range(256):
                    if other != byte:
                        mutated[at] = other
                        yield [*message[:k], bytes(mutated), *message[k + 1 :]]
                mutated[at] = byte


def damaged(whole: list[list[bytes]], seed: int) -> Iterator[list[bytes]]:
    """Messages damaged at random, for ever."""
    rng = random.Random(seed)
    while True:
        message = list(rng.choice(whole))
        if len(message) > 1 and rng.random() < 0.1:
            message[rng.randrange(len(message))] = rng.choice(rng.choice(whole))
        if len(message) > 1 and rng.random() < 0.1:
            del message[rng.randrange(len(message))]
        k = rng.randrange(len(message))
        message[k] = damaged_part(message[k], whole, rng)
        yield message


def damaged_part(part: bytes, whole: list[list[bytes]], rng: random.Random) -> bytes:
    """One part of a message, damaged."""
    mutated = bytearray(part)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(mutated) + 1), rng.randrange(8)
        if kind == 0:
            mutated[at : at + 1] = rng.randbytes(1)
        elif kind == 1 and at < len(mutated):
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            mutated[at : at + rng.randint(0, 16)] = rng.randbytes(rng.randint(0, 16))
        elif kind == 3:
            del mutated[at:]
        elif kind == 4:
            other = rng.choice(rng.choice(whole))
            start = rng.randrange(len(other))
            mutated[at:at] = other[start : start + rng.randint(1, 64)]
        elif kind == 5:
            mutated[at : at + rng.choice((0, 1, 9))] = rng.choice(HEADS)
        elif kind == 6:
            mutated[at : at + rng.choice((0, 1, 2))] = rng.choice(SAID)
        else:
            mutated[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f" + b"\xff" * 3))
    return bytes(mutated)


class Receiving:
    """What a receiver does with messages of a protocol, one by one, and what the general decoder makes of them."""

    def __init__(self, protocol: str) -> None:
        self._decoder, self._general = PROTOCOLS[protocol](), PROTOCOLS[protocol]()
        self.messages = messages(protocol)
        (series,) = self._decoder.events(self.messages[0])
        assert isinstance(series, Series)
        self._gate, self._reducer = Gate(series, VERIFY), Reducer(SHAPE)

    def __call__(self, message: list[bytes]) -> str:
        """What becomes of a message: the kind of its last event, or how it was refused."""
        found = self._decoder.all_events(Messages.of([message]))
        try:
            events: list[Event] | ProtocolError = raised(found)
        except ProtocolError as error:
            events = error
        if repr(events) != repr(self._generally(message)):
            return DISAGREED
        if isinstance(events, ProtocolError):
            return "refused as a message"
        said = "nothing"
        for event in found:
            if isinstance(event, Frames):
                said = self._judged(event, message)
            else:
                said = "start" if isinstance(event, Series) else "end"
        return said

    def _generally(self, message: list[bytes]) -> list[Event] | ProtocolError:
        try:
            if isinstance(self._general, ProtocolV1):
                return self._general.events(message)
            return [general_event(part) for part in message]
        except ProtocolError as error:
            return error

    def _judged(self, frames: Frames, message: list[bytes]) -> str:
        """What becomes of frames that were read."""
        admitted, refused = self._gate.admit(frames)
        try:
            images = [decompress(chunk) for frame in frames for chunk in frame.chunks]
        except ProtocolError:
            return "refused as an image" if refused else DISAGREED
        chunks = [chunk for frame in frames for chunk in frame.chunks]
        room = MAX_RATIO * sum(map(len, message))
        if any(i.nbytes != nbytes(c) or i.nbytes > room for i, c in zip(images, chunks, strict=True)):
            return LARGER
        if refused:
            return "refused by its series"
        if any(layout.shape != SHAPE for layout in admitted.layouts):
            return LARGER
        if admitted.layouts[0].dtype.isnative and len(admitted) == 1:
            found = Reduction.zeros(1, self._reducer.masks)
            upright = images[0].T if chunks[0].column_major else images[0]
            expected = self._reducer.reduce(np.ascontiguousarray(upright)[None])
            reasons = blobs.reduce(admitted, self._reducer, found)
            if reasons != [""] or not np.array_equal(found.moments, expected.moments):
                return DISAGREED
        return "frame"


def high_water(name: str) -> int:
    """Memory of this process [kB]: VmHWM, the most so far, or VmRSS, now."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))


def work(protocol: str, part: int, parts: int, count: int, skip: int, at: Synchronized, answer: Any) -> None:
    """Work on every `parts`-th of `count` messages, from number `skip` of them on."""
    receive = Receiving(protocol)
    outcomes: Counter[str] = Counter()
    unexpected: list[str] = []
    longest = 0.0
    for message in receive.messages:
        receive(message)
    before = high_water("VmRSS")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is in
    for number, message in enumerate(every_message(part, parts, count, receive.messages)):
        if number < skip:
            continue
        at.value = number
        signal.setitimer(signal.ITIMER_REAL, HANG)
        began = time.perf_counter()
        try:
            said = receive(message)
        except Exception as error:
            said = "another error"
            unexpected = [*unexpected[:4], f"{type(error).__name__}: {error} of {message}"[:2000]]
        if said == DISAGREED:
            unexpected = [*unexpected[:4], f"{DISAGREED}: {message}"[:2000]]
        outcomes[said] += 1
        longest = max(longest, time.perf_counter() - began)
    signal.setitimer(signal.ITIMER_REAL, 0)
    answer.put((outcomes, longest, high_water("VmHWM") - before, unexpected))


def every_message(part: int, parts: int, count: int, whole: list[list[bytes]]) -> Iterator[list[bytes]]:
    """Every `parts`-th message that is damaged byte by byte, then random ones, `count` together."""
    done = 0
    for number, message in enumerate(every_byte(whole)):
        if done == count:
            return
        if number % parts == part:
            yield message
            done += 1
    random_ones = damaged(whole, part)
    for _ in range(count - done):
        yield next(random_ones)


def main() -> None:
    """Work, count, print."""
    parser = argparse.ArgumentParser(description="Damaged messages of both streams.")
    parser.add_argument("--messages", type=int, default=1_000_000, help="of each (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    total: Counter[str] = Counter()
    crashed = hung = 0
    longest, growth, unexpected = 0.0, 0, []
    count = -(-options.messages // options.processes)
    began = time.perf_counter()

    def start(protocol: str, part: int, skip: int) -> tuple:
        at, answer = context.Value("q", -1), context.SimpleQueue()
        process = context.Process(target=work, args=(protocol, part, options.processes, count, skip, at, answer))
        process.start()
        return process, at, answer

    waiting = [(protocol, part) for protocol in PROTOCOLS for part in range(options.processes)]
    running: dict[tuple[str, int], tuple] = {}
    while running or waiting:
        while waiting and len(running) < options.processes:
            part = waiting.pop(0)
            running[part] = start(*part, 0)
        for part, (process, at, answer) in list(running.items()):
            process.join(0.2)
            if process.is_alive():
                continue
            del running[part]
            if process.exitcode == 0:
                outcomes, slowest, grown, errors = answer.get()
                total += outcomes
                longest, growth, unexpected = max(longest, slowest), max(growth, grown), unexpected + errors
                continue
            if at.value < 0:
                sys.exit(f"process {part} ended with status {process.exitcode} before its first message")
            hung += process.exitcode == -signal.SIGALRM
            crashed += process.exitcode != -signal.SIGALRM
            print(f"process {part}: status {process.exitcode} at message {at.value}", flush=True)
            running[part] = start(*part, at.value + 1)
    seconds = time.perf_counter() - began
    whole = [part for protocol in PROTOCOLS for message in messages(protocol) for part in message]
    byte_by_byte = 255 * sum(map(len, whole))
    for line in unexpected:
        print(line)
    print(
        json.dumps(
            {
                "messages": sum(total.values()) + crashed + hung,
                "damaged byte by byte": byte_by_byte,
                "crashed": crashed,
                "hung": hung,
                "other errors than the one that refuses": total.pop("another error", 0),
                LARGER: total.pop(LARGER, 0),
                DISAGREED: total.pop(DISAGREED, 0),
                "outcomes": dict(sorted(total.items())),
                "longest_ms": round(longest * 1e3, 1),
                "peak memory over that before, MB": round(growth / 1e3, 1),
                "messages a second": round(sum(total.values()) / seconds),
                "cbor2": version("cbor2"),
            }
        )
    )


if __name__ == "__main__":
    main()
