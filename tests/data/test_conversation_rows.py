import pytest

from dmaxlit.data.conversation_rows import BadConversationError, conversation_of

USER = {"role": "user", "content": "a"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": None, "y": 1}}}]}
SAID: dict[str, object] = {"role": "assistant", "content": "b", "tool_calls": [], "function_call": None}


def nested(levels):
    """Return lists in one another."""
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_every_turn_has_a_text_or_calls():
    parts = {"role": "user", "content": ["a", {"type": "text", "text": "b"}], "name": "n"}
    conversation = conversation_of([parts, CALL, SAID], '[{"name": "f"}]')
    assert conversation == [
        {"role": "user", "content": "ab", "name": "n"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"y": 1}}}]},
        {"role": "assistant", "content": "b"},
    ]
    assert conversation.tools == [{"name": "f"}]
    assert conversation_of([USER], " ").tools is None


@pytest.mark.parametrize(
    ("messages", "tools", "reason", "detail"),
    [
        *(
            (messages, None, "has messages that are not a list of role and content texts", "")
            for messages in (None, "a", [], [USER, 3], [{"role": "user"}], [{"content": "a"}], [{**USER, "content": 3}])
        ),
        ([USER], {"name": "f"}, "has tools that are not a list of objects", "got a dict"),
        ([USER], ["f"], "has tools that are not a list of objects", "got a list"),
        *(
            ([USER], tools, "has tools that are not a list of objects", "nested too deeply")
            for tools in (nested(200), "[" * 200_000)
        ),
        ([{**USER, "x": nested(200)}], None, "has messages that are nested too deeply", ""),
    ],
)
def test_anything_else_says_what_is_wrong(messages, tools, reason, detail):
    with pytest.raises(BadConversationError) as caught:
        conversation_of(messages, tools)
    assert (caught.value.reason, caught.value.detail) == (reason, detail)
    assert str(caught.value) == (f"{reason} ({detail})" if detail else reason)
