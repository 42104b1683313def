"""A million messages of stream v2 with damage, through what the receiver does with a message: crashes, hangs, memory.

Seeded. First every single byte of every kind of message is replaced by each of the 255 others; then messages are
damaged at random: bytes, bits, ends, pieces of other messages, and CBOR heads that declare what is not there. Each is
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
from bluesky_edgestem.sim.simplon_messages import MessagesV2
from bluesky_edgestem.stream import blobs
from bluesky_edgestem.stream.encoding import MAX_RATIO, compress, decompress, nbytes
from bluesky_edgestem.stream.gate import Gate, Refusal
from bluesky_edgestem.stream.protocol_v2 import ProtocolV2
from bluesky_edgestem.stream.protocol_v2 import event as general_event
from bluesky_edgestem.stream.receiver import VERIFY
from bluesky_edgestem.stream.series import Event, Frame, ProtocolError, Series

DISAGREED, LARGER = "ways of decoding that disagree", "larger than declared"
HANG = 5.0
"""Time [s] after which a message counts as one that hangs the receiver."""
SHAPE, FRAMES = (4, 64), 16  # of whole words, so that sums are taken from bit planes
CONFIG: dict[str, Any] = {
    "x_pixels_in_detector": SHAPE[1],
    "y_pixels_in_detector": SHAPE[0],
    "bit_depth_image": 16,
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


def messages() -> list[bytes]:
    """One of each kind: start, frames in each encoding, of two channels, column-major, end."""
    image = np.random.default_rng(0).poisson(0.3, SHAPE).astype(np.uint16)
    one, two = MessagesV2(["threshold_1"]), MessagesV2(["threshold_1", "threshold_2"])
    turned = compress(np.ascontiguousarray(image.T))._replace(shape=SHAPE, column_major=True)
    return [
        *one.start(7, "basic", CONFIG, FRAMES),
        *(one.frame(7, 3, [compress(image, encoding)], 0.5, 0.75)[0] for encoding in ("bslz4", "lz4", "none")),
        *two.frame(7, 3, [compress(image), compress(image)], 0.5, 0.75),
        *one.frame(7, 3, [turned], 0.5, 0.75),
        *one.end(7),
    ]


def every_byte(whole: list[bytes]) -> Iterator[bytes]:
    """Each message with each of its bytes replaced by each other one."""
    for message in whole:
        mutated = bytearray(message)
        for at, byte in enumerate(message):
            for other in range(256):
                if other != byte:
                    mutated[at] = other
                    yield bytes(mutated)
            mutated[at] = byte


def damaged(whole: list[bytes], seed: int) -> Iterator[bytes]:
    """Messages damaged at random, for ever."""
    rng = random.Random(seed)
    while True:
        mutated = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            at, kind = rng.randrange(len(mutated) + 1), rng.randrange(7)
            if kind == 0:
                mutated[at : at + 1] = rng.randbytes(1)
            elif kind == 1 and at < len(mutated):
                mutated[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                mutated[at : at + rng.randint(0, 16)] = rng.randbytes(rng.randint(0, 16))
            elif kind == 3:
                del mutated[at:]
            elif kind == 4:
                other = rng.choice(whole)
                start = rng.randrange(len(other))
                mutated[at:at] = other[start : start + rng.randint(1, 64)]
            elif kind == 5:
                mutated[at : at + rng.choice((0, 1, 9))] = rng.choice(HEADS)
            else:
                mutated[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f" + b"\xff" * 3))
        yield bytes(mutated)


def receive(message: bytes, decoder: ProtocolV2, gate: Gate, reducer: Reducer) -> str:
    """What becomes of a message: the kind of its event, or how it was refused."""
    (event,) = decoder.all_events([[message]])
    if repr(event) != repr(generally(message)):
        return DISAGREED
    if isinstance(event, ProtocolError):
        return "refused as a message"
    if not isinstance(event, Frame):
        return "start" if isinstance(event, Series) else "end"
    (admitted,) = gate.admit([event])
    try:
        images = [decompress(chunk) for chunk in event.chunks]
    except ProtocolError:
        return "refused as an image" if isinstance(admitted, Refusal) else DISAGREED
    if any(
        i.nbytes != nbytes(c) or i.nbytes > MAX_RATIO * len(message) for i, c in zip(images, event.chunks, strict=True)
    ):
        return LARGER
    if isinstance(admitted, Refusal):
        return "refused by its series"
    chunk = admitted.chunks[0]
    if chunk.shape != SHAPE:
        return LARGER
    if chunk.dtype.isnative:
        found = Reduction.zeros(1, reducer.masks)
        upright = images[0].T if chunk.column_major else images[0]
        expected = reducer.reduce(np.ascontiguousarray(upright)[None])
        if blobs.reduce([chunk], reducer, found) != [""] or not np.array_equal(found.moments, expected.moments):
            return DISAGREED
    return "frame"


def generally(message: bytes) -> Event | ProtocolError:
    """What the general decoder makes of a message."""
    try:
        return general_event(message)
    except ProtocolError as error:
        return error


def high_water(name: str) -> int:
    """Memory of this process [kB]: VmHWM, the most so far, or VmRSS, now."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))


def work(part: int, parts: int, count: int, skip: int, at: Synchronized, answer: Any) -> None:
    """Work on every `parts`-th of `count` messages, from number `skip` of them on."""
    decoder, whole = ProtocolV2(), messages()
    (series,) = decoder.events([whole[0]])
    assert isinstance(series, Series)
    gate = Gate(series, VERIFY)
    reducer = Reducer(SHAPE)
    outcomes: Counter[str] = Counter()
    unexpected: list[str] = []
    longest = 0.0
    for message in whole:
        receive(message, decoder, gate, reducer)
    before = high_water("VmRSS")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is in
    for number, message in enumerate(every_message(part, parts, count, whole)):
        if number < skip:
            continue
        at.value = number
        signal.setitimer(signal.ITIMER_REAL, HANG)
        began = time.perf_counter()
        try:
            outcomes[receive(message, decoder, gate, reducer)] += 1
        except Exception as error:
            outcomes["another error"] += 1
            unexpected = [*unexpected[:4], f"{type(error).__name__}: {error} of {message.hex()}"[:2000]]
        longest = max(longest, time.perf_counter() - began)
    signal.setitimer(signal.ITIMER_REAL, 0)
    answer.put((outcomes, longest, high_water("VmHWM") - before, unexpected))


def every_message(part: int, parts: int, count: int, whole: list[bytes]) -> Iterator[bytes]:
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
    parser = argparse.ArgumentParser(description="Damaged messages of stream v2.")
    parser.add_argument("--messages", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    total: Counter[str] = Counter()
    crashed = hung = 0
    longest, growth, unexpected = 0.0, 0, []
    count = -(-options.messages // options.processes)
    began = time.perf_counter()

    def start(part: int, skip: int) -> tuple:
        at, answer = context.Value("q", -1), context.SimpleQueue()
        process = context.Process(target=work, args=(part, options.processes, count, skip, at, answer))
        process.start()
        return process, at, answer

    running = {part: start(part, 0) for part in range(options.processes)}
    while running:
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
            running[part] = start(part, at.value + 1)
    seconds = time.perf_counter() - began
    for line in unexpected:
        print(line)
    print(
        json.dumps(
            {
                "messages": sum(total.values()) + crashed + hung,
                "damaged byte by byte": 255 * sum(map(len, messages())),
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
