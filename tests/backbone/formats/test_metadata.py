import json

import pytest

from dmaxlit import UserError
from dmaxlit.backbone import read_metadata


def read(tmp_path, content):
    (tmp_path / "dmaxlit.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_metadata(tmp_path)


def test_a_folder_of_other_origin_has_none(tmp_path):
    assert read_metadata(tmp_path) == {}


@pytest.mark.parametrize(
    "metadata",
    [{}, {"block_length": 8, "max_length": 64, "task": None}, {"task": {"name": "chain"}, "of_a_later_version": [1]}],
)
def test_what_fits_is_returned_as_it_is(tmp_path, metadata):
    assert read(tmp_path, metadata) == metadata


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ([1], "expected an object, got [1]"),
        ({"block_length": "x"}, "block_length: expected a number of tokens, at least 1, got 'x'"),
        ({"block_length": 0}, "block_length: expected a number of tokens, at least 1, got 0"),
        ({"block_length": True}, "block_length: expected a number of tokens, at least 1, got True"),
        ({"max_length": 1.5}, "max_length: expected a number of tokens, at least 1, got 1.5"),
        ({"task": "chain"}, "task: expected an object with a name and options, got 'chain'"),
        ({"task": {"options": {}}}, "task: expected an object with a name and options"),
        ({"task": {"name": "chain", "options": [1]}}, "task: expected an object with a name and options"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_field_of_another_type_is_refused_by_file_and_name(tmp_path, content, refusal):
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"pretrained: {tmp_path / 'dmaxlit.json'}")
    assert refusal in message
    assert len(message) < 500
