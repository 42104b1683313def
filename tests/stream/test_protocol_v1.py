"""Stream v1: what a message says, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluesky_edgestem.sim.simplon_messages import MessagesV1
from bluesky_edgestem.stream import json_images
from bluesky_edgestem.stream.encoding import compress, decompress
from bluesky_edgestem.stream.frames import Frames, raised
from bluesky_edgestem.stream.messages import Messages
from bluesky_edgestem.stream.plain_images import COLUMNS
from bluesky_edgestem.stream.protocol_v1 import ProtocolV1
from bluesky_edgestem.stream.series import End, Event, Frame, ProtocolError, Series, frames_expected

CONFIG = {
    "x_pixels_in_detector": 20,
    "y_pixels_in_detector": 12,
    "bit_depth_image": 16,
    "nimages": 3,
    "ntrigger": 4,
    "trigger_mode": "exts",
}
IMAGE = np.arange(240, dtype=np.uint16).reshape(12, 20)


@pytest.mark.parametrize(
    ("mode", "expected"), [("exte", 4), ("inte", 4), ("exts", 12), ("ints", 12), ("extg", 12), ("eies", 3)]
)
def test_each_trigger_mode_has_its_count(mode: str, expected: int) -> None:
    assert frames_expected(mode, nimages=3, ntrigger=4) == expected
    (series,) = ProtocolV1().events(MessagesV1().start(7, "basic", {**CONFIG, "trigger_mode": mode}, 0))
    assert isinstance(series, Series)
    assert (series.number, series.shape, series.dtype, series.frames) == (7, (12, 20), np.uint16, expected)
    assert series.config["nimages"] == 3


@pytest.mark.parametrize("detail", ["basic", "all"])
def test_the_header_may_bring_tables(detail: str) -> None:
    (series,) = ProtocolV1().events(MessagesV1().start(1, detail, CONFIG, 0))
    assert isinstance(series, Series) and series.shape == (12, 20)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_header_and_configuration_may_come_apart_and_in_either_order(order: tuple[int, int]) -> None:
    parts = MessagesV1().start(5, "basic", CONFIG, 0)
    decoder = ProtocolV1()
    assert decoder.events([parts[order[0]]]) == []
    (series,) = decoder.events([parts[order[1]]])
    assert isinstance(series, Series) and series.number == 5 and series.frames == 12


def test_without_detail_the_frames_tell() -> None:
    (series,) = ProtocolV1().events(MessagesV1().start(5, "none", CONFIG, 0))
    assert series == Series(5, None, None, None)


@pytest.mark.parametrize("encoding", ["bslz4", "lz4-block", "none"])
@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<u4", ">u2"])
@pytest.mark.parametrize("appendix", ["", "note"])
def test_a_frame(encoding: str, dtype: str, appendix: str) -> None:
    image = (IMAGE % 200).astype(dtype)
    parts = MessagesV1(appendix).frame(7, 11, [compress(image, encoding)], 0.5, 0.75)
    (frame,) = ProtocolV1().events(parts)
    assert isinstance(frame, Frame)
    assert (frame.series, frame.number) == (7, 11)
    assert (frame.start, frame.stop, frame.real) == pytest.approx((0.5, 0.75, 0.25))
    np.testing.assert_array_equal(decompress(frame.chunks[0]), image)
    assert frame.chunks[0].dtype == image.dtype


def test_several_frames_and_the_end_may_share_a_message() -> None:
    messages = MessagesV1()
    parts = [p for n in range(3) for p in messages.frame(7, n, [compress(IMAGE)], 0, 0)] + messages.end(7)
    *frames, end = ProtocolV1().events(parts)
    assert [frame.number for frame in frames if isinstance(frame, Frame)] == [0, 1, 2]
    assert end == End(7)


def test_an_empty_blob_header_is_filled_in() -> None:
    parts = MessagesV1().frame(7, 0, [compress(IMAGE)], 0, 0)
    parts[2] = bytes(12) + parts[2][12:]
    (frame,) = ProtocolV1().events(parts)
    assert isinstance(frame, Frame)
    np.testing.assert_array_equal(decompress(frame.chunks[0]), IMAGE)


def changed(part: bytes, **values: object) -> bytes:
    return orjson.dumps({**json.loads(part), **values})


@pytest.mark.parametrize(
    ("part", "values", "field"),
    [
        (0, {"frame": -1}, "dimage-1.0.frame"),
        (0, {"frame": "3"}, "dimage-1.0.frame"),
        (0, {"series": True}, "dimage-1.0.series"),
        (0, {"htype": "dimage-2.0"}, "htype"),
        (1, {"htype": "dimage-1.0"}, "htype"),
        (1, {"shape": [20]}, "dimage_d-1.0.shape"),
        (1, {"shape": [0, 12]}, "dimage_d-1.0.shape"),
        (1, {"shape": [1 << 20, 1 << 20]}, "dimage_d-1.0.shape"),
        (1, {"type": "complex64"}, "dimage_d-1.0.type"),
        (1, {"encoding": "bs32-lz4<"}, "dimage_d-1.0.encoding"),
        (1, {"encoding": "zip<"}, "dimage_d-1.0.encoding"),
        (1, {"size": 1}, "dimage_d-1.0.size"),
        (1, {"shape": [19, 12]}, "data (bslz4) header"),
        (3, {"start_time": "now"}, "dconfig-1.0.start_time"),
        (3, {"real_time": -1}, "dconfig-1.0.real_time"),
    ],
)
def test_what_is_wrong_is_named(part: int, values: dict, field: str) -> None:
    parts = MessagesV1().frame(7, 11, [compress(IMAGE)], 0, 0)
    parts[part] = changed(parts[part], **values)
    with pytest.raises(ProtocolError) as caught:
        ProtocolV1().events(parts)
    assert caught.value.field == field
    assert "allowed is" in str(caught.value)
    if part:
        assert (caught.value.series, caught.value.number) == (7, 11)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"x_pixels_in_detector": None}, "config.x_pixels_in_detector, y_pixels_in_detector"),
        ({"y_pixels_in_detector": 1 << 40}, "config.x_pixels_in_detector, y_pixels_in_detector"),
        ({"bit_depth_image": 12}, "config.bit_depth_image"),
        ({"nimages": 1 << 40}, "config.nimages"),
        ({"ntrigger": 1.5}, "config.ntrigger"),
        ({"trigger_mode": "now"}, "trigger_mode"),
    ],
)
def test_what_is_wrong_in_a_header_is_named(values: dict, field: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        ProtocolV1().events(MessagesV1().start(1, "basic", {**CONFIG, **values}, 0))
    assert caught.value.field == field


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    message=st.sampled_from(
        [MessagesV1().frame(7, 11, [compress(IMAGE)], 0, 1), MessagesV1().start(1, "all", CONFIG, 0)]
    ),
)
def test_any_bytes_give_events_or_one_error(data: st.DataObject, message: list[bytes]) -> None:
    parts = list(message)
    for _ in range(data.draw(st.integers(1, 3))):
        k = data.draw(st.integers(0, len(parts) - 1))
        mutated = bytearray(parts[k])
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        parts[k] = bytes(mutated)
    parts = parts[: data.draw(st.integers(0, len(parts)))]
    try:
        events = ProtocolV1().events(parts)
    except ProtocolError as error:
        assert error.field
    else:
        assert all(isinstance(event, Series | Frame | End) for event in events)


def test_only_short_descriptions_are_remembered() -> None:
    decoder = ProtocolV1()
    head, described, blob, timed = MessagesV1().frame(7, 11, [compress(IMAGE)], 0.5, 0.75)
    for length in (4096, 4097, 1 << 20):
        (frame,) = decoder.events([head, bytes(described).ljust(length), blob, timed])
        assert isinstance(frame, Frame)
        np.testing.assert_array_equal(decompress(frame.chunks[0]), IMAGE)
    assert [len(known) for known in decoder._known] == [4096]


PLAIN = MessagesV1().frame(7, 11, [compress(IMAGE)], 0.5, 0.75)
NUMBERS = ["0", "7", "07", "-0", "-1", "1.0", "1e3", str(2**31), str(2**31 + 1), str(2**53), str(2**53 + 1), "9" * 17]
NUMBERS += [str(2**63), "9" * 40, "null", "true", '"1"', "[1]", ""]
VALUES = {
    "htype": ['"dimage-1.0"', '"dimage_d-1.0"', '"dconfig-1.0"', '"dimage-1.0\\u0020"', "1", "null"],
    "series": NUMBERS,
    "frame": NUMBERS,
    "hash": ['""', '"\\\\"', '"\\""', '"ä"', '"\x7f"', "null", '"'],
    "shape": ["[20,12]", "[ 20 , 12 ]", "[12,20]", "[20]", "[20,12,1]", "[0,12]", "[1e1,12]", f"[{2**26},1]", "[,]"],
    "type": ['"uint16"', '"uint8"', '"uint"', '"float32"', "16"],
    "encoding": ['"bs16-lz4<"', '"bs16-lz4>"', '"bs8-lz4<"', '"bs16<"', '"lz4<"', '"<"', '">"', '""', "null"],
    "size": [str(len(PLAIN[2])), "1", "null", '"1"'],
    "start_time": NUMBERS,
    "stop_time": NUMBERS,
    "real_time": NUMBERS,
    "user": ["{}", "1"],
}
"""What JSON parts are changed to; some of it is no JSON."""
SPACES = ["", " ", "\n\t\r", "\v", "\0", "\ufeff"]


def objects(part: bytes) -> st.SearchStrategy[bytes]:
    """JSON objects like `part`: members left out, changed, twice or in another order, spaces between them."""
    given = [(key, orjson.dumps(value).decode()) for key, value in json.loads(part).items()]
    anything = st.sampled_from(sorted(VALUES)).flatmap(
        lambda key: st.tuples(st.just(key), st.sampled_from(VALUES[key]))
    )
    own = [st.tuples(st.just(key), st.sampled_from(VALUES[key])) for key, _ in given]
    members = st.one_of(
        st.permutations(given),
        st.lists(st.one_of(st.sampled_from(given), anything), max_size=6),
        st.tuples(st.sampled_from(range(len(given))), st.one_of(own)).map(
            lambda change: [member for member in given if member[0] != change[1][0]] + [change[1]]
        ),
    )
    space = st.one_of(st.just(""), st.sampled_from(SPACES))

    def joined(members: list[tuple[str, str]], space: str, before: str, after: str) -> bytes:
        inside = f",{space}".join(f'"{key}"{space}:{space}{value}' for key, value in members)
        return f"{before}{{{space}{inside}{space}}}{after}".encode()

    return st.builds(joined, members, space, space, space)


def said_by(decode: Callable[[], list[Event]]) -> object:
    """Events as text, since nan is not nan; or the error."""
    try:
        return repr(decode())
    except ProtocolError as error:
        return str(error), error.series, error.number


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_message_read_in_the_batch_says_what_the_general_decoder_finds(data: st.DataObject) -> None:
    """For the plain message, and with its parts changed: bytes of them, members, their number, the blob."""
    parts = [bytes(part) for part in PLAIN]
    for k in data.draw(st.sets(st.sampled_from([0, 1, 3]), max_size=2)):
        parts[k] = data.draw(objects(parts[k]))
    for _ in range(data.draw(st.integers(0, 2))):
        k = data.draw(st.integers(0, 3))
        mutated = bytearray(parts[k])
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        parts[k] = bytes(mutated)
    if data.draw(st.booleans()):
        parts[2] = data.draw(st.sampled_from([IMAGE.tobytes(), bytes(12) + PLAIN[2][12:], b"", PLAIN[2][:11]]))
    parts = parts[: data.draw(st.sampled_from([4, 4, 4, 3]))] + data.draw(st.sampled_from([[], [], [b"note"], PLAIN]))
    batch = Messages.of([PLAIN, parts, PLAIN])

    def batched() -> list[Event]:
        return raised(ProtocolV1().all_events(batch))

    whole = ProtocolV1().events(PLAIN)
    general = said_by(lambda: [*whole, *ProtocolV1().events(parts), *whole])
    assert said_by(batched) == general


def test_what_a_detector_sends_is_read_in_the_batch() -> None:
    """Else the batch would be in vain: the general decoder takes ten times as long."""
    blobs = [compress(IMAGE), compress(IMAGE, "none"), compress(IMAGE.astype(">u2"))]
    sent = [MessagesV1().frame(7, n, [blob], n, n + 0.5) for blob in blobs for n in range(5)]
    messages = Messages.of([*sent, MessagesV1().end(7)])
    assert json_images.read(messages)[:, COLUMNS.index("plain")].tolist() == [1] * 15 + [0]
    *batches, end = ProtocolV1().all_events(messages)
    assert end == End(7)
    for blob, frames in zip(blobs, batches, strict=True):
        assert isinstance(frames, Frames)
        assert frames.numbers.tolist() == list(range(5))
        assert frames.times[:, 0].tolist() == list(range(5)) and (frames.times[:, 2] == 0.5).all()
        assert all(frame.chunks == (blob,) for frame in frames)
