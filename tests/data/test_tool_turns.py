import json
from datetime import date
from decimal import Decimal

import pytest

from dmaxlit.data.conversation_rows import BadConversationError
from dmaxlit.data.messages import Conversation
from dmaxlit.data.tool_turns import first_tool_turn, tools_as_text

USER = {"role": "user", "content": "rain?"}
ANSWER = {"role": "assistant", "content": "no"}
FUNCTION = {"name": "weather", "arguments": {"city": "Zürich"}}
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([USER, ANSWER], None),
        ([USER, {**ANSWER, "tool_calls": []}], None),
        ([USER, {"role": "assistant", "tool_calls": [{"function": FUNCTION}]}], (2, "'tool_calls'")),
        ([USER, ANSWER, {"role": "function", "content": "dry"}], (3, "the role 'function'")),
    ],
)
def test_the_first_turn_of_a_tool(turns, expected):
    assert first_tool_turn(Conversation(turns)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_calls": [{"id": "1", "type": "function", "function": FUNCTION}]},
        {"tool_calls": [{"function": {**FUNCTION, "arguments": json.dumps(FUNCTION["arguments"])}}]},
        {"tool_calls": [FUNCTION]},
        {"function_call": FUNCTION},
    ],
)
def test_a_call_becomes_text_behind_what_was_said(fields):
    tools = [{"name": "weather"}]
    said = Conversation([USER, {"role": "assistant", "content": "I look.", **fields}], tools)
    text = tools_as_text(said)
    assert text == [USER, {"role": "assistant", "content": f"I look.\n{CALL_TEXT}"}]
    assert text.tools == tools
    assert first_tool_turn(text) is None
    silent = tools_as_text(Conversation([USER, {"role": "assistant", "content": "", **fields}]))
    assert silent[1]["content"] == CALL_TEXT


def test_a_call_in_another_text_or_with_other_arguments_stays_as_it_is():
    calls = [{"name": "f", "arguments": "{oops"}, {"name": "g"}]
    turns = [{"role": "assistant", "function_call": "f(2)"}, {"role": "assistant", "tool_calls": calls}]
    assert [turn["content"] for turn in tools_as_text(Conversation(turns))] == [
        "<tool_call>\nf(2)\n</tool_call>",
        '<tool_call>\n{"name": "f", "arguments": "{oops"}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
    ]


def test_arguments_of_a_parquet_file_that_json_does_not_know_become_texts():
    arguments = {"day": date(2026, 1, 31), "price": Decimal("1.50"), "key": b"ab"}
    call = {"name": "f", "arguments": arguments}
    (turn,) = tools_as_text(Conversation([{"role": "assistant", "function_call": call}]))
    as_texts = '{"day": "2026-01-31", "price": "1.50", "key": "YWI="}'
    assert turn["content"] == f'<tool_call>\n{{"name": "f", "arguments": {as_texts}}}\n</tool_call>'


def test_answers_in_a_row_are_one_turn_of_the_user():
    results = [{"role": "tool", "content": "dry"}, {"role": "observation", "content": "warm"}]
    text = tools_as_text(Conversation([USER, *results, ANSWER, results[0], USER]))
    dry, warm = "<tool_response>\ndry\n</tool_response>", "<tool_response>\nwarm\n</tool_response>"
    assert [turn["content"] for turn in text] == ["rain?", f"{dry}\n{warm}", "no", dry, "rain?"]
    assert [turn["role"] for turn in text] == ["user", "user", "assistant", "user", "user"]


@pytest.mark.parametrize("call", [3, {}, {"function": 3}, {"function": {"name": None}}])
def test_a_call_without_a_name_is_refused(call):
    with pytest.raises(BadConversationError, match=r"^has a call that is not a name and arguments$"):
        tools_as_text(Conversation([USER, {"role": "assistant", "tool_calls": [call]}]))
