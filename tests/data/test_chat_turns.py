import json

import pytest
import torch

from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.conversation_rows import BadConversationError, conversation_of
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.noise import MaskedNoise, OnPolicyNoise
from dmaxlit.tokens import CleanBatch, Role, SpecialTokens
from tests.data.chat_tokenizers import byte_level
from tests.noise.test_contract import converse

BLOCK = 8
# As Qwen3's: the thoughts of earlier turns are left out.
THINKING = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def turns(*texts, first="user"):
    order = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": order[index % 2], "content": text} for index, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "be brief"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
RESULT = {"role": "tool", "content": "2"}
CHAT = [SYSTEM, *turns("hi", "hello you", "2 + 2?", "4", "sure?", "yes, I am")]


def data_of(path, rows, tokenizer=None, **options):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = SelfDistilledDataModule(corpus=str(path), batch_size=32, seed=0, **options)
    data.bind(byte_level() if tokenizer is None else tokenizer, BLOCK, 256)
    data.setup("fit")
    return data


def rows_of(data):
    """Return the ids and roles of each sequence, without padding."""
    batch = data.first_rows(100)
    return [
        (ids[roles != Role.PAD].tolist(), roles[roles != Role.PAD].tolist())
        for ids, roles in zip(batch["ids"], batch["roles"], strict=True)
    ]


@pytest.mark.parametrize("template", [None, THINKING])
def test_each_turn_is_encoded_as_the_last_of_the_conversation_up_to_it(tmp_path, template):
    tokenizer = byte_level() if template is None else byte_level(template)
    chat = [SYSTEM, *turns("hi", "<think>a</think>hello", "2 + 2?", "<think>b</think>4", "sure?", "yes")]
    every = data_of(tmp_path / "a.jsonl", [{"messages": chat}], tokenizer, turns="all")
    cut = [{"messages": chat[:end]} for end in (3, 5, 7)]
    last = data_of(tmp_path / "b.jsonl", cut, tokenizer)
    assert rows_of(every) == rows_of(last)
    assert every.fingerprint() == last.fingerprint()
    assert every.places([0, 1, 2]) == [f"{tmp_path / 'a.jsonl'}, row 1, turn {turn}" for turn in (3, 5, 7)]


@pytest.mark.parametrize("eos_fill", ["block", 3])
def test_roles_are_those_of_a_slow_reference(tmp_path, eos_fill):
    tokenizer = byte_level()
    data = data_of(tmp_path / "a.jsonl", [{"messages": CHAT}], tokenizer, turns="all", eos_fill=eos_fill)
    expected = []
    for end in (3, 5, 7):
        # Byte by byte: a special token is one id, and any other character of these texts is one.
        prompt = [("<|turn|>", *f"{turn['role']}\n{turn['content']}", "<|close|>", "\n") for turn in CHAT[: end - 1]]
        before = [token for turn in prompt for token in turn] + ["<|turn|>", *"assistant\n"]
        learnt = [*CHAT[end - 1]["content"], "<|close|>", "\n", "<|end|>"]
        tokens = before + learnt
        roles = [Role.PROMPT] * len(before) + [Role.RESPONSE] * len(learnt)
        supervised_eos = 1
        while len(tokens) % BLOCK or (eos_fill != "block" and supervised_eos < eos_fill):
            is_learnt = eos_fill == "block" or supervised_eos < eos_fill
            tokens.append("<|end|>")
            roles.append(Role.RESPONSE if is_learnt else Role.FILL)
            supervised_eos += 1
        to_byte = {" ": "Ġ", "\n": "Ċ"}
        expected.append((tokenizer.convert_tokens_to_ids([to_byte.get(t, t) for t in tokens]), [int(r) for r in roles]))
    assert rows_of(data) == expected


@pytest.mark.parametrize("strategy", [MaskedNoise(level=1.0), OnPolicyNoise(level=1.0)])
def test_noise_touches_the_learnt_turn_alone_and_every_turn_has_a_loss(tmp_path, strategy):
    tokenizer = byte_level()
    batch = data_of(tmp_path / "a.jsonl", [{"messages": CHAT}], tokenizer, turns="all").first_rows(9)
    special = SpecialTokens.of(tokenizer)
    clean = CleanBatch(batch["ids"], batch["roles"], BLOCK, special)
    views = converse(strategy, clean)
    assert views
    for view in views:
        context = clean.roles == Role.PROMPT
        assert torch.equal(view.ids[context], clean.ids[context])
        assert not view.supervised[context].any()
        said = [
            tokenizer.decode(ids[supervised]).replace("<|end|>", "")
            for ids, supervised in zip(clean.ids, view.supervised & clean.in_loss, strict=True)
        ]
        assert said == [f"{CHAT[number]['content']}<|close|>\n" for number in (2, 4, 6)]


def learnt(messages, **options):
    found = ChatTurns(**options).learnt(conversation_of(messages))
    return [(len(turn.context), turn.text, turn.number) for turn in found]


def test_the_last_turn_alone_by_default():
    assert learnt(CHAT) == [(6, "yes, I am", 7)]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (CHAT, [(2, "hello you", 3), (4, "4", 5), (6, "yes, I am", 7)]),
        (turns("welcome", "hi", "hello", first="assistant"), [(2, "hello", 3)]),  # nothing precedes the first turn
        (turns("hi", "hello", "bye"), [(1, "hello", 2)]),
        ([*turns("hi", "a"), {"role": "assistant", "content": "b"}], [(1, "a", 2), (2, "b", 3)]),
        ([SYSTEM, {"role": "assistant", "content": "a"}], [(1, "a", 2)]),
    ],
)
def test_all_turns_of_the_assistant_behind_a_text(messages, expected):
    assert learnt(messages, turns="all") == expected


WITH_TOOLS = [*turns("f of 1?"), CALL, RESULT, {"role": "assistant", "content": "2"}]


def test_calls_are_learnt_as_text_but_not_where_the_template_writes_them():
    assert learnt(WITH_TOOLS, tool_turns="template") == [(3, "2", 4)]
    assert learnt(WITH_TOOLS, turns="all", tool_turns="template") == [(3, "2", 4)]
    text = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    assert learnt(WITH_TOOLS, turns="all", tool_turns="text") == [(1, text, 2), (3, "2", 4)]
    assert learnt(WITH_TOOLS[:2], tool_turns="text") == [(1, text, 2)]


THOUGHT = {"role": "assistant", "content": "a", "reasoning_content": "x"}
BAD = [
    (WITH_TOOLS, {}, r"^has turns of tools, which tool_turns refuses \(turn 2 has 'tool_calls'; template "),
    (WITH_TOOLS[:2], {"tool_turns": "template"}, r"^has messages that end in more than a text \(got tool_calls, which"),
    (
        WITH_TOOLS[:2],
        {"turns": "all", "tool_turns": "template"},
        "^has messages without an assistant turn after a prom",
    ),
    (turns("hi"), {"turns": "all"}, "^has messages without an assistant turn after a prompt$"),
    (turns("a", first="assistant"), {"turns": "all"}, "^has messages without an assistant turn after a prompt$"),
    (turns("hi", " ", "x", "y"), {"turns": "all"}, r"^has an empty assistant turn \(turn 2\)$"),
    ([*turns("hi"), THOUGHT, *turns("a", "b")], {"turns": "all"}, r"^has an assistant turn of more than a text \(got"),
]


@pytest.mark.parametrize(("messages", "options", "reason"), BAD)
def test_conversations_that_cannot_be_learnt(messages, options, reason):
    with pytest.raises(BadConversationError, match=reason):
        learnt(messages, **options)


def test_a_turn_that_is_too_long_is_named_and_the_earlier_ones_are_kept(tmp_path):
    rows = [{"messages": turns("hi", "ok", "more", "x" * 60)}]
    with pytest.raises(UserError, match=r"a.jsonl, row 1, turn 4: is too long \(\d+ tokens with EOS, at most 80\)$"):
        data_of(tmp_path / "a.jsonl", rows, turns="all", max_length=80)
    data = data_of(tmp_path / "a.jsonl", rows, turns="all", max_length=80, on_bad_row="skip")
    assert data.places([0]) == [f"{tmp_path / 'a.jsonl'}, row 1, turn 2"]


def test_tools_as_text_reach_a_template_that_writes_no_calls(tmp_path, recwarn):
    rows = [{"messages": WITH_TOOLS}]
    text = data_of(tmp_path / "a.jsonl", rows, tool_turns="text")
    written = byte_level().decode(rows_of(text)[0][0])
    assert '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>' in written
    assert "<|turn|>user\n<tool_response>\n2\n</tool_response><|close|>" in written
    assert not recwarn
    with pytest.warns(DMaxWarning, match="the chat template does not write tool_calls"):
        data_of(tmp_path / "a.jsonl", rows, tool_turns="template")


def test_other_choices_are_refused():
    for options in ({"turns": "first"}, {"tool_turns": "keep"}):
        with pytest.raises(UserError, match=f"^{next(iter(options))}: expected "):
            ChatTurns(**options)
