import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks.unicode import check_text, lone_surrogate


@pytest.mark.parametrize("text", ["", "plain", "日本 \N{GRINNING FACE} \u2028 \x00", "\ue000\uffff\U0010ffff"])
def test_what_utf_8_can_encode_is_text(text):
    assert text.encode().decode() == text
    assert lone_surrogate(text) is None
    check_text("prompt", text)


@pytest.mark.parametrize("code", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_what_it_cannot_is_named(code):
    character = chr(code)
    with pytest.raises(UnicodeEncodeError):
        character.encode()
    escape = f"\\u{code:x}"
    assert lone_surrogate(f"a {character} b") == escape
    with pytest.raises(UserError) as caught:
        check_text("prompt", f"日本{character}")
    assert str(caught.value) == f"prompt: expected text that UTF-8 can encode, got a lone surrogate ({escape})"


def test_texts_are_found_at_any_depth_also_as_names():
    deep = "\ud83d"
    for _ in range(5000):  # beyond Python's limit of recursion
        deep = [deep]
    for value in (deep, {"a": [{"b": "\ud83d"}]}, {"\ud83d": 1}, ("x", ["\ud83d"])):
        assert lone_surrogate(value) == r"\ud83d"
    assert lone_surrogate({"a": [1, None, {"b": 2.5, "c": "é"}]}) is None
