"""What users may pass as prompts: a text, a conversation, or a list of these."""

import json

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.data.messages import Conversation
from dmaxlit.engine import BlockDecoder, DecodeSettings
from dmaxlit.engine.prompts import as_prompt, as_prompts
from dmaxlit.errors import PromptError

TEXT = "7 +1 ?"
TURN = {"role": "user", "content": TEXT}
CONVERSATION = [{"role": "user", "content": "3 *2 ?"}, {"role": "assistant", "content": "6"}, TURN]


@pytest.fixture
def module():
    return dmaxlit.load("builtin:chain-base")


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (TEXT, [TEXT]),
        ("", [""]),
        ([TEXT, "2 ?"], [TEXT, "2 ?"]),
        ((TEXT,), [TEXT]),
        ({TEXT: 1}.keys(), [TEXT]),
        (iter([TEXT]), [TEXT]),
        ([TURN], [[TURN]]),
        (CONVERSATION, [CONVERSATION]),
        (tuple(CONVERSATION), [CONVERSATION]),
        ([[TURN], TEXT, CONVERSATION], [[TURN], TEXT, CONVERSATION]),
        (
            [{"role": "assistant", "content": None, "tool_calls": []}],
            [[{"role": "assistant", "content": None, "tool_calls": []}]],
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": 1}]}, TURN],
            [[{"role": "assistant", "tool_calls": [{"id": 1}]}, TURN]],
        ),
        (
            [{"role": "assistant", "function_call": {"name": "f"}}, TURN],
            [[{"role": "assistant", "function_call": {"name": "f"}}, TURN]],
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "7 "}, {"text": "+1"}, " ?"]}], [[TURN]]),
        ([], []),
    ],
)
def test_a_text_is_a_prompt_and_a_conversation_is_a_prompt_and_a_list_of_these_are_many(prompts, expected):
    assert as_prompts(prompts) == expected


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "prompts: expected a text or a list of chat messages, or a list of these, got None"),
        (7, "prompts: expected a text .* got a value of type int"),
        (b"7 ?", "prompts: expected a text .* got a value of type bytes"),
        (TURN, "prompts: expected a text .* got a value of type dict"),
        ([TEXT, None], r"prompts\[1\]: expected a text or a list of chat messages, got None"),
        ([TEXT, TURN], r"prompts\[1\]: expected a text or a list of chat messages, got a value of type dict"),
        ([[TURN], []], r"prompts\[1\]: expected at least one message, got an empty list"),
        ([[1, 2]], r"prompts\[0\]\[0\]: expected a message with role and content, got a value of type int"),
        ([[TURN, TEXT]], r"prompts\[0\]\[1\]: expected a message with role and content, got a value of type str"),
        ([{"role": "user"}], r"prompts\[0\]: expected a message .* got one without content"),
        ([[{}]], r"prompts\[0\]\[0\]: expected a message .* got one without role and content"),
        ([{"role": 1, "content": "x"}], r"prompts\[0\]: expected a text as role, got a value of type int"),
        ("7 \ud83d ?", r"prompts: expected text that UTF-8 can encode, got a lone surrogate \(\\ud83d\)"),
        ([TEXT, "\udce9"], r"prompts\[1\]: expected text that UTF-8 can encode, got a lone surrogate \(\\udce9\)"),
        ([TURN, {"role": "user", "content": "\ud83d"}], r"prompts: expected text that UTF-8 can encode, .*"),
        ([{"role": "user", "content": 5}], r"prompts\[0\]: expected a text or .* as content, got a value of type int"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
            r"prompts\[0\]: expected a text or a list of text parts as content, got a list with other parts",
        ),
        ([{"role": "user", "content": []}], r"prompts\[0\]: expected a text or a list of text parts .* of type list"),
        ([{"role": "assistant", "tool_calls": []}], r"prompts\[0\]: expected a message .* got one without content"),
    ],
)
def test_anything_else_is_refused_in_one_line(module, bad, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        module.generate(bad)
    with pytest.raises(UserError, match=f"^{message}$"):
        module.generate_batch(bad, DecodeSettings())


def test_a_conversation_keeps_its_tools():
    tools = [{"name": "weather"}]
    for prompt in (as_prompt(Conversation([TURN], tools)), *as_prompts([Conversation([TURN], tools)])):
        assert prompt == [TURN]
        assert prompt.tools == tools
    assert as_prompt([TURN]).tools is None


@pytest.mark.parametrize("several", [[TEXT], [[TURN], [TURN]], None, TURN, []])
def test_one_prompt_is_not_several(module, several):
    with pytest.raises(UserError, match=r"^prompt(\[0\])?: expected"):
        module.stream(several)
    with pytest.raises(UserError, match=r"^prompt(\[0\])?: expected"):
        module.encode_prompt(several)


def test_a_prompt_that_cannot_be_encoded_is_named(module):
    module.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    encode, module.encode_prompt = module.encode_prompt, lambda prompt: refuse() if prompt == "2 ?" else encode(prompt)

    def refuse():
        raise UserError("chat template: no")

    with pytest.raises(PromptError, match=r"^prompts\[1\]: chat template: no$"):
        module.generate([TEXT, "2 ?"], "threshold", max_new_tokens=32)


def test_a_stop_text_that_no_answer_can_have_is_refused(module):
    with pytest.raises(UserError, match=r"^stop: expected text that UTF-8 can encode, got a lone surrogate"):
        module.generate(TEXT, stop=["so", "\udce9"])


def test_generate_answers_a_text_once(module):
    (expected,) = module.generate([TEXT], "threshold", max_new_tokens=32)
    assert module.generate(TEXT, "threshold", max_new_tokens=32) == [expected]
    assert module.generate(iter([TEXT]), "threshold", max_new_tokens=32) == [expected]
    assert module.generate((TEXT, TEXT), "threshold", max_new_tokens=32) == [expected, expected]


def test_a_conversation_is_encoded_by_the_chat_template(module):
    module.tokenizer.chat_template = (
        "{% for m in messages %}{{ '3' if m['role'] == 'user' else '4' }} {{ m['content'] }} {% endfor %}"
    )
    prompt_ids = module.tokenizer("3 3 *2 ? 4 6 3 7 +1 ?")["input_ids"]
    prompt_ids = [token for token in prompt_ids if token != module.tokenizer.eos_token_id]
    assert [
        token for token in module.encode_prompt(CONVERSATION) if token != module.tokenizer.eos_token_id
    ] == prompt_ids

    options = {"decoder": "threshold", "max_new_tokens": 32}
    (answer,) = module.generate(CONVERSATION, **options)
    assert answer.prompt == as_prompt(CONVERSATION) == CONVERSATION
    assert json.loads(json.dumps(answer.to_dict()))["prompt"] == CONVERSATION
    assert module.generate([CONVERSATION, TEXT], **options) == [answer, *module.generate(TEXT, **options)]
    assert list(module.stream(CONVERSATION, **options))[-1].generation == answer
    # A text is the user's turn.
    assert module.generate([TURN], **options)[0].token_ids == module.generate(TEXT, **options)[0].token_ids


@pytest.mark.parametrize("bad", ["7 ?", [3, 4], ["7"], [None]])
def test_the_engine_itself_takes_token_ids(module, bad):
    from dmaxlit.decoding import ThresholdDecoder

    engine = BlockDecoder(module.backbone, ThresholdDecoder())
    with pytest.raises(UserError, match=r"^prompts\[0\]: expected a list of token ids, got "):
        engine.decode(bad, 8)
