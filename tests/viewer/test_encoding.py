import base64
import json
import zlib

import pytest

from dmaxlit.viewer import Panel, page
from dmaxlit.viewer.encoding import encode
from tests.viewer.recordings import synthetic, texts_of


def decoded(row):
    """Undo the encoding cell by cell, as the page's program does: token numbers, states and percents by forward."""
    stored, length = zlib.decompress(base64.b64decode(row["planes"])), row["length"]
    cells, plane = bytearray(stored), row["forwards"] * length
    for kind in range(5):
        for at in range(kind * plane + length, (kind + 1) * plane):
            cells[at] ^= cells[at - length]
    for at in range(plane):
        low, middle, high, state, percent = (cells[kind * plane + at] for kind in range(5))
        yield low + 256 * middle + 65536 * high, state, percent


def test_every_cell_comes_back():
    recording = synthetic(40, 50, 16)
    numbers = {token: 70_000 + at for at, token in enumerate(texts_of(recording))}
    row = encode(recording, numbers)
    confidence, cells = recording.last_confidence(), list(decoded(row))
    assert len(cells) == 40 * 50
    for at, (token, state, percent) in enumerate(cells):
        cell = divmod(at, 50)
        assert token == numbers.get(int(recording.ids[cell]), 0)
        assert state == recording.state[cell]
        known = not confidence[cell].isnan()
        assert (abs(percent - 100 * float(confidence[cell])) < 1.001) if known else percent == 255
    assert row["forwardsPerBlock"] == [10] * 4
    assert row["block"] == [position // 16 for position in range(50)]


def test_only_certainty_is_a_hundred_percent():
    recording = synthetic(2, 3, 4)
    recording.confidence[:] = recording.confidence.new_tensor([0.999, 1.0, 0.29])
    assert [percent for _, _, percent in decoded(encode(recording, dict.fromkeys(texts_of(recording), 1)))][:3] == [
        99,
        100,
        29,
    ]


@pytest.mark.parametrize("block_length", [32, 2000])
def test_2000_tokens_of_500_forwards_are_a_file_of_less_than_3_megabytes(block_length):
    recording = synthetic(500, 2000, block_length)
    text = page([Panel("large", {0: recording}, texts_of(recording))])
    assert len(text.encode()) < 3_000_000


def test_an_encoded_recording_is_json_without_nan():
    json.dumps(encode(synthetic(1, 1, 1), {token: 1 for token in range(30_000)}), allow_nan=False)
