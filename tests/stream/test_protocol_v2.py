"""Stream v2: what a message says, and what is wrong with it."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluesky_edgestem.sim.simplon_messages import MessagesV2
from bluesky_edgestem.stream import cbor_images
from bluesky_edgestem.stream.encoding import compress, decompress
from bluesky_edgestem.stream.frames import Frames, raised
from bluesky_edgestem.stream.messages import Messages
from bluesky_edgestem.stream.plain_images import COLUMNS
from bluesky_edgestem.stream.protocol_v2 import TYPED_ARRAYS, ProtocolV2, event
from bluesky_edgestem.stream.series import End, Event, Frame, ProtocolError, Series

CONFIG: dict[str, Any] = {
    "x_pixels_in_detector": 20,
    "y_pixels_in_detector": 12,
    "bit_depth_image": 16,
    "count_time": 1e-3,
    "frame_time": 1.1e-3,
    "description": "test",
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
IMAGE = np.arange(240, dtype=np.uint16).reshape(12, 20)
Tag = cbor2.CBORTag


def events(message: Any) -> list:
    return ProtocolV2().events([message if isinstance(message, bytes) else cbor2.dumps(message)])


def image_message(array: Any = None, **values: Any) -> dict[str, Any]:
    array = Tag(40, [[12, 20], Tag(69, IMAGE.tobytes())]) if array is None else array
    return {
        "type": "image",
        "series_id": 7,
        "image_id": 11,
        "start_time": [1, 2],
        "stop_time": [3, 4],
        "real_time": [1, 4],
        "data": {"threshold_1": array},
    } | values


def test_the_start_message() -> None:
    (part,) = MessagesV2(["threshold_1", "threshold_2"]).start(7, "all", CONFIG, 1000)
    (series,) = events(part)
    assert isinstance(series, Series)
    assert (series.number, series.shape, series.dtype, series.frames) == (7, (12, 20), np.uint16, 1000)
    assert series.channels == ("threshold_1", "threshold_2")
    assert series.unique == "01HBV3JPF9T4ZDPADX00000007"
    assert series.config["incident_energy"] == 8e4
    assert "flatfield" not in series.config


def test_the_end_message() -> None:
    assert events(MessagesV2().end(7)[0]) == [End(7)]


@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", ">u2", ">u4"])
def test_a_frame(encoding: str, dtype: str) -> None:
    image = (IMAGE % 200).astype(dtype)
    (frame,) = events(MessagesV2().frame(7, 11, [compress(image, encoding)], 0.5, 0.75)[0])
    assert isinstance(frame, Frame)
    assert (frame.series, frame.number, frame.start, frame.stop, frame.real) == (7, 11, 0.5, 0.75, 0.25)
    (chunk,) = frame.chunks
    assert chunk.channel == "threshold_1" and chunk.encoding == encoding
    np.testing.assert_array_equal(decompress(chunk), image)


@pytest.mark.parametrize("tag", TYPED_ARRAYS)
def test_every_typed_array(tag: int) -> None:
    image = (IMAGE % 100).astype(TYPED_ARRAYS[tag])
    (frame,) = events(image_message(Tag(40, [[12, 20], Tag(tag, image.tobytes())])))
    np.testing.assert_array_equal(decompress(frame.chunks[0]), image)


def test_a_column_major_array() -> None:
    (frame,) = events(image_message(Tag(1040, [[12, 20], Tag(69, IMAGE.tobytes(order="F"))])))
    (chunk,) = frame.chunks
    assert chunk.shape == (12, 20) and chunk.column_major
    np.testing.assert_array_equal(decompress(chunk).T, IMAGE)


def test_several_channels() -> None:
    names = ["threshold_1", "threshold_2"]
    chunks = [compress(IMAGE), compress(IMAGE[::-1])]
    (frame,) = events(MessagesV2(names).frame(7, 0, chunks, 0, 0)[0])
    assert [chunk.channel for chunk in frame.chunks] == names
    np.testing.assert_array_equal(decompress(frame.chunks[1]), IMAGE[::-1])


def packed(*held: Any) -> Tag:
    return Tag(40, [[12, 20], Tag(69, Tag(56500, list(held)))])


BLOB = compress(IMAGE).data


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"type": "picture"}, "type"),
        ([1, 2], "message"),
        (b"\x00\x01", "message"),
        (b"", "message"),
        (image_message(series_id="7"), "image.series_id"),
        (image_message(image_id=-1), "image.image_id"),
        (image_message(image_id=2.0), "image.image_id"),
        (image_message(data=[]), "image.data"),
        (image_message(data={}), "image.data"),
        (image_message(data={"../x": 1}), "image.data"),
        (image_message(start_time=3), "image.start_time"),
        (image_message(stop_time=[1, 0]), "image.stop_time"),
        (image_message(real_time=[-1, 2]), "image.real_time"),
        (image_message(3), "image.data['threshold_1']"),
        (image_message(Tag(41, [])), "image.data['threshold_1']"),
        (image_message(Tag(40, [[12, 20]])), "image.data['threshold_1']"),
        (image_message(Tag(40, [[12], Tag(69, b"")])), "image.data['threshold_1'] dimensions"),
        (image_message(Tag(40, [[1 << 30, 1 << 30], Tag(69, b"")])), "image.data['threshold_1'] dimensions"),
        (image_message(Tag(40, [[12, 20], Tag(83, b"")])), "image.data['threshold_1'] typed array"),
        (image_message(Tag(40, [[12, 20], Tag(69, "text")])), "image.data['threshold_1'] bytes"),
        (image_message(Tag(40, [[12, 20], Tag(69, b"abc")])), "data (none)"),
        (image_message(packed("bslz4", 2)), "image.data['threshold_1'] tag 56500"),
        (image_message(packed("zip", 2, BLOB)), "image.data['threshold_1'] algorithm"),
        (image_message(packed("bslz4", 4, BLOB)), "image.data['threshold_1'] element size"),
        (image_message(packed("bslz4", 2, bytes(8) + BLOB[8:])), "data (bslz4) header"),
        (image_message(packed("bslz4", 2, BLOB[:5])), "data (bslz4)"),
        # Tags that cbor2 would make objects of: 10^(10^9), a pattern, an address, itself.
        (image_message(image_id=Tag(4, [10**9, 1])), "a CBOR tag"),
        (image_message(image_id=Tag(35, "(a+)+$")), "a CBOR tag"),
        (image_message(image_id=Tag(260, b"1234")), "a CBOR tag"),
        (image_message(image_id=2**70), "a CBOR tag"),
    ],
)
def test_what_is_wrong_is_named(message: Any, field: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        events(message)
    assert caught.value.field == field
    assert "allowed is" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"channels": []}, "start.channels"),
        ({"channels": ["a", "a"]}, "start.channels"),
        ({"channels": ["/etc/passwd"]}, "start.channels"),
        ({"image_size_x": 1 << 30}, "start.image_size_x, image_size_y"),
        ({"image_dtype": "object"}, "start.image_dtype"),
        ({"number_of_images": -1}, "start.number_of_images"),
    ],
)
def test_what_is_wrong_in_a_start_message_is_named(values: dict, field: str) -> None:
    start = cbor2.loads(MessagesV2().start(7, "basic", CONFIG, 10)[0])
    held = start.value if isinstance(start, Tag) else start
    with pytest.raises(ProtocolError) as caught:
        events({**held, **values})
    assert caught.value.field == field


LYING = {
    "a byte string of 2^62 bytes": b"\xa1\x64type\x5b\x40" + bytes(7),
    "an array of 2^62 items": b"\xa1\x64type\x9b\x40" + bytes(7),
    "a map of 2^62 pairs": b"\xbb\x40" + bytes(7),
    "text of 2^40 characters": b"\xa1\x64type\x7b\x00\x00\x01" + bytes(5),
    "arrays in arrays": b"\x81" * 200_000,
    "tags in tags": b"\xd8\x40" * 100_000,
    "no end": b"\xbf" * 1000,
    "a date of the year 10^9": cbor2.dumps({"type": "start"})[:-1] + b"\x01",
}


def test_no_declared_length_is_believed() -> None:
    """In a process with 300 MB to spare, as an allocation that fails would be the end of the receiver."""
    code = f"""
import resource
from bluesky_edgestem.stream.protocol_v2 import ProtocolV2
from bluesky_edgestem.stream.series import ProtocolError
decoder = ProtocolV2()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
for name, message in {LYING!r}.items():
    try:
        decoder.events([message])
    except ProtocolError:
        print("refused", name)
"""
    said = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=250)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [f"refused {name}" for name in LYING]


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    message=st.sampled_from(
        [
            MessagesV2().frame(7, 11, [compress(IMAGE)], 0.5, 0.75)[0],
            MessagesV2().frame(7, 11, [compress(IMAGE, "none")], 0.5, 0.75)[0],
            MessagesV2().start(7, "basic", CONFIG, 10)[0],
            MessagesV2().end(7)[0],
        ]
    ),
)
def test_any_bytes_give_an_event_or_one_error(data: st.DataObject, message: bytes) -> None:
    mutated = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        (event,) = events(bytes(mutated))
    except ProtocolError as error:
        assert error.field
    else:
        assert isinstance(event, Series | Frame | End)
        for chunk in event.chunks if isinstance(event, Frame) else ():
            with contextlib.suppress(ProtocolError):
                assert decompress(chunk).nbytes <= 255 * len(mutated)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB for a message of hundreds"


PLAIN = MessagesV2().frame(7, 11, [compress(IMAGE)], 0.5, 0.75)[0]
SIZES = [0, 1, 23, 24, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]

HELD = [
    IMAGE.tobytes(),
    IMAGE.tobytes()[:-1],
    Tag(56500, ["bslz4", 2, BLOB]),
    Tag(56500, ["bslz4", 4, BLOB]),
    Tag(56500, ["bslz4", 0, BLOB]),
    Tag(56500, ["none", 2, IMAGE.tobytes()]),
    Tag(56500, ["none", 0, IMAGE.tobytes()]),
    Tag(56500, ["lz4", 2, compress(IMAGE, "lz4").data]),
    Tag(56500, ["bslz4\0", 2, BLOB]),
    Tag(56501, ["bslz4", 2, BLOB]),
    "text",
]


def head(major: int, value: int, nbytes: int) -> bytes:
    """A CBOR head with `value` in so many bytes, whether fewer would do or not."""
    if not nbytes:
        return bytes([major << 5 | value % 24])
    return bytes([major << 5 | 24 + nbytes.bit_length() - 1]) + (value % 2 ** (8 * nbytes)).to_bytes(nbytes, "big")


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_message_read_in_the_batch_says_what_the_general_decoder_finds(data: st.DataObject) -> None:
    """For the plain message, and with anything changed in it: another head, other bytes, or other values."""
    if data.draw(st.booleans()):
        message = bytearray(PLAIN)
        for _ in range(data.draw(st.integers(0, 2))):
            at, length = data.draw(st.integers(0, len(message) - 1)), data.draw(st.integers(0, 3))
            value = st.builds(head, st.integers(0, 7), st.sampled_from(SIZES), st.sampled_from([0, 1, 2, 4, 8]))
            message[at : at + length] = data.draw(st.one_of(value, st.binary(max_size=2)))
        message = bytes(message)
    else:
        time = st.lists(st.sampled_from([0, 1, 3, 50_000_000, *SIZES]), min_size=1, max_size=3)
        array = st.builds(
            lambda order, shape, tag, held: Tag(order, [shape, Tag(tag, HELD[held])]),
            st.sampled_from([40, 1040, 41]),
            st.sampled_from([[12, 20], [20, 12], [1, 240], [0, 240], [240], [2**26, 1]]),
            st.sampled_from([64, 65, 68, 69, 70, 73, 77, 78, 81, 83, 88]),
            st.sampled_from(range(len(HELD))),
        )
        names = st.sampled_from(["threshold_1", "a", "a" * 64, "a" * 65, "_a", "a b", "ä", ""])
        values = st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["image", "images", "imag", "image\0", 3]),
                "series_id": st.sampled_from([*SIZES, -1, 1.0, True, "1"]),
                "image_id": st.sampled_from([*SIZES, -1, 1.0, None]),
                "series_unique_id": st.sampled_from(["", "x" * 100, "ä", 7]),
                "start_time": time,
                "stop_time": time,
                "real_time": st.one_of(time, st.none()),
                "user_data": st.sampled_from([None, {}, b"abc", [1, 2]]),
                "data": st.dictionaries(names, array, max_size=2),
            },
        )
        content = image_message() | data.draw(values)
        for key in data.draw(st.sets(st.sampled_from(sorted(content)), max_size=1)):
            del content[key]
        content = dict(data.draw(st.permutations(list(content.items()))))
        message = cbor2.dumps(Tag(55799, content) if data.draw(st.booleans()) else content)
    whole = repr(event(PLAIN))

    def among_others(message: bytes) -> Event:
        before, found, after = raised(ProtocolV2().all_events(Messages.of([[PLAIN], [message], [PLAIN]])))
        assert repr(before) == repr(after) == whole
        return found

    said: list[Any] = []
    for decode in (event, among_others):
        try:
            said.append(repr(decode(message)))  # as text, since nan is not nan
        except ProtocolError as error:
            said.append((str(error), error.series, error.number))
    assert said[0] == said[1]


def test_what_a_detector_sends_is_read_in_the_batch() -> None:
    """Else the batch would be in vain: the general decoder takes three times as long."""
    sent = [
        MessagesV2(["one"]).frame(7, n, [compress(IMAGE, e)], n, n + 1)[0] for n in range(5) for e in ("bslz4", "none")
    ]
    assert len(cbor_images.read(Messages.of([]))) == 0
    messages = Messages.of([[part] for part in [*sent, b"", MessagesV2().end(7)[0], *sent[::2]]])
    rows = cbor_images.read(messages)
    assert rows[:, COLUMNS.index("plain")].tolist() == [1] * 10 + [0, 0] + [1] * 5
    assert rows[:, COLUMNS.index("like")].tolist() == [0] * 13 + [1] * 4, "encodings change, and then they do not"
    for row, end in zip(rows[:10], messages.ends, strict=False):
        assert messages.data[row[COLUMNS.index("name")] : row[COLUMNS.index("name_end")]].tobytes() == b"one"
        assert row[COLUMNS.index("blob_end")] == end
    *frames, refused, end, alike = ProtocolV2().all_events(messages)
    assert isinstance(alike, Frames) and alike.numbers.tolist() == list(range(5))
    assert isinstance(refused, ProtocolError) and end == End(7)
    assert [repr(frame) for frame in alike] == [repr(frame) for batch in frames[::2] for frame in batch]


def test_only_images_that_are_alike_are_put_together() -> None:
    """By series, channel, shape, type and encoding; each kind comes twice, and its like is not told from it."""
    kinds = [
        (7, "one", IMAGE, "bslz4"),
        (8, "one", IMAGE, "bslz4"),
        (8, "two", IMAGE, "bslz4"),
        (8, "once", IMAGE, "bslz4"),
        (8, "once", np.ascontiguousarray(IMAGE.T), "bslz4"),
        (8, "once", np.ascontiguousarray(IMAGE.T).astype(">u2"), "bslz4"),
        (8, "once", np.ascontiguousarray(IMAGE.T).astype(">u2"), "none"),
    ]
    sent = [
        MessagesV2([name]).frame(series, number, [compress(image, encoding)], 0.5, 0.75)
        for series, name, image, encoding in kinds
        for number in (3, 4)
    ]
    batches = ProtocolV2().all_events(Messages.of(sent))
    for frames, (series, name, image, encoding) in zip(batches, kinds, strict=True):
        assert isinstance(frames, Frames) and frames.series == series and frames.numbers.tolist() == [3, 4]
        for frame in frames:
            assert frame.chunks == (compress(image, encoding, name),)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        events(message)
