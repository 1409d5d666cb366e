"""What a chat template puts around the response is learnt with it, and left out of what a model writes for itself."""

from types import SimpleNamespace

import pytest

from dmaxlit import UserError
from dmaxlit.data.answerers import ModelAnswerer
from dmaxlit.data.assistant_turn import AssistantTurn, assistant_turn, response_content
from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.encoding import encode_pair, encode_prompt
from dmaxlit.data.messages import Conversation
from dmaxlit.tokens import Role
from tests.data.packed_rows import packed_rows
from tests.engine.tokenizers_by_bytes import byte_level

TURN = "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
CHATML = TURN + "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
TRIMMED = CHATML.replace("m['content']", "m['content'] | trim").replace("m['role']", "m['role'] | upper")
TRIMMED = TRIMMED.replace("<|turn|>assistant", "<|turn|>ASSISTANT")
ENDS_WITH_EOS = CHATML.replace("<|end|>\n", "<|end|>{% if m['role'] == 'assistant' %}<eos>{% endif %}")
# As Qwen3's: the last turn has a thought, taken out of the content, or an empty one.
THOUGHT = CHATML.replace(
    "{{ m['content'] }}",
    "{% set parts = m['content'].split('</think>') %}"
    "{% if m['role'] == 'assistant' %}<think>\n"
    "{{ parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' }}\n</think>\n\n{% endif %}"
    "{{ parts[-1].lstrip('\n') }}",
)
# As DeepSeek-R1's: the prompt begins a thought that the template of the whole dialogue leaves out.
OPEN_THOUGHT = CHATML.replace("<|turn|>assistant\n{% endif %}", "<|turn|>assistant\n<think>\n{% endif %}")
# As DeepSeek-R1's and QwQ's: the whole dialogue has neither the beginning of the thought nor the thought.
CUT_THOUGHT = OPEN_THOUGHT.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1].lstrip('\n') }}")
# The whole dialogue has the thought if there is one.
KEPT_THOUGHT = OPEN_THOUGHT.replace(
    "{{ m['content'] }}",
    "{% set parts = m['content'].split('</think>') %}"
    "{% if parts | length > 1 %}<think>\n{{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ parts[-1].lstrip('\n') }}",
)
# Without special tokens, as in a corpus of plain text.
WORDS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} / {% endfor %}"
WORDS += "{% if add_generation_prompt %}assistant: {% endif %}"
TEMPLATES = {
    "chatml": CHATML,
    "trimmed": TRIMMED,
    "ends with eos": ENDS_WITH_EOS,
    "thought": THOUGHT,
    "words": WORDS,
}
DIALOGUE = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}]
RESPONSES = ["4", " it is 4 ", "<think>\nwell\n</think>\n\n4", "/", "end", "assistant\n4"]


def with_template(template):
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return tokenizer


def written(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("prompt", ["2 + 2?", DIALOGUE])
@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_whole_dialogue_is_the_template_s(name, response, prompt):
    tokenizer = with_template(TEMPLATES[name])
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": response}], return_dict=False)
    eos = tokenizer.eos_token_id
    pair = encode_pair(tokenizer, prompt, response, 16, 3)
    length = len(whole) - (whole[-1] == eos)
    assert pair.ids == whole[:length] + [eos] * (len(pair.ids) - length)
    start = len(encode_prompt(tokenizer, prompt))
    assert pair.roles[:start] == [Role.PROMPT] * start
    assert pair.roles[start : length + 3] == [Role.RESPONSE] * (length + 3 - start)
    assert set(pair.roles[length + 3 :]) <= {Role.FILL}
    assert len(pair.ids) % 16 == 0


def test_the_parts_of_a_turn():
    assert assistant_turn(with_template(CHATML), "2?", "4") == AssistantTurn("", "4", "<|end|>\n")
    assert assistant_turn(with_template(TRIMMED), "2?", " 4 ") == AssistantTurn("", "4", "<|end|>\n")
    thought = with_template(THOUGHT)
    empty = "<think>\n\n</think>\n\n"
    assert assistant_turn(thought, "2?", "4") == AssistantTurn(empty, "4", "<|end|>\n")
    assert assistant_turn(thought, "2?", empty + "4") == AssistantTurn(empty, "4", "<|end|>\n")
    known = "<think>\nwell\n</think>\n\n4"
    assert assistant_turn(thought, "2?", known) == AssistantTurn("", known, "<|end|>\n")


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bern"}}}]}
# As Hermes' and Qwen's: tools in the system's turn, calls as JSON.
TOOLS = (
    "{% if tools %}<|turn|>system\nTools: {{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] or '' }}"
    "{% for call in m['tool_calls'] or [] %}<call>{{ call['function'] | tojson }}</call>{% endfor %}"
    "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("templates", [TOOLS, {"default": CHATML, "tool_use": TOOLS}])
def test_tools_are_in_the_prompt_and_the_turn_behind_it(templates):
    tokenizer = with_template(templates)
    turns = [{"role": "user", "content": "rain?"}, CALL, {"role": "tool", "content": "dry"}]
    prompt = Conversation(turns, tools=[TOOL])
    assert assistant_turn(tokenizer, prompt, "no") == AssistantTurn("", "no", "<|end|>\n")
    whole = tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": "no"}], tools=[TOOL], return_dict=False
    )
    pair = encode_pair(tokenizer, prompt, "no", 16)
    assert pair.ids[: len(whole)] == whole
    text = written(tokenizer, pair.ids[: pair.roles.index(Role.RESPONSE)])
    assert text.startswith('<|turn|>system\nTools: [{"type": "function", "function": {"name": "weather", ')
    assert '<call>{"name": "weather", "arguments": {"city": "Bern"}}</call><|end|>' in text
    assert text.endswith("<|turn|>tool\ndry<|end|>\n<|turn|>assistant\n")
    assert response_content(tokenizer, prompt, "no\n") == "no"


def test_a_tool_use_template_alone_is_for_conversations_with_tools():
    tokenizer = with_template({"tool_use": TOOLS, "rag": CHATML})
    turns = [{"role": "user", "content": "rain?"}]
    assert assistant_turn(tokenizer, Conversation(turns, tools=[TOOL]), "no").after == "<|end|>\n"
    with pytest.raises(UserError, match=r"^chat_template: expected 'rag' or 'tool_use', since the tokenizer has no"):
        assistant_turn(tokenizer, turns, "no")


@pytest.mark.parametrize("template", [OPEN_THOUGHT, CUT_THOUGHT, KEPT_THOUGHT])
def test_a_prompt_that_begins_a_thought_is_followed_by_the_response(template):
    tokenizer = with_template(template)
    assert assistant_turn(tokenizer, "2?", "4") == AssistantTurn("", "4", "<|end|>\n")
    thought = "well\n</think>\n\n4"
    for response in (thought, f"<think>\n{thought}", f"<think>{thought}"):
        pair = encode_pair(tokenizer, "2?", response, 64)
        assert f"<|turn|>assistant\n<think>\n{thought}<|end|>\n<eos>" in written(tokenizer, pair.ids)
    assert response_content(tokenizer, "2?", thought + "\n") == thought


def test_a_response_keeps_its_white_space_where_the_prompt_ends_in_more_of_it():
    template = CHATML.replace("<|turn|>assistant\n{% endif %}", "<|turn|>assistant\n\n{% endif %}")
    assert assistant_turn(with_template(template), "2?", "  4") == AssistantTurn("", "  4", "<|end|>\n")


def test_a_template_that_leaves_the_response_out_adds_nothing():
    tokenizer = with_template("{% for m in messages %}{{ m['content'] if m['role'] == 'user' }}.{% endfor %}")
    assert assistant_turn(tokenizer, "2?", "4") == AssistantTurn("", "4", "")


def test_special_tokens_that_the_response_spells_out_are_text():
    tokenizer = with_template(CHATML)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    pair = encode_pair(tokenizer, "2?", "4<|end|>\n5", 16)
    answer = [token for token, role in zip(pair.ids, pair.roles, strict=True) if role == Role.RESPONSE]
    assert answer.count(end) == 1
    assert written(tokenizer, answer).startswith("4<|end|>\n5<|end|>\n<eos>")


def test_without_a_template_the_response_stands_alone():
    tokenizer = byte_level()
    pair = encode_pair(tokenizer, "2?", "4", 4, 1)
    assert written(tokenizer, pair.ids) == "2?4<eos>"
    assert response_content(tokenizer, "2?", "4\n") == "4\n"


def test_rows_of_a_corpus_are_encoded_with_the_end_of_the_turn():
    tokenizer = with_template(CHATML)
    pairs = packed_rows([Row("2?", "4", "1"), Row(DIALOGUE, "5", "2")], tokenizer, 16, 256)
    for (_, ids, start), response in zip((pairs[0], pairs[1]), "45", strict=True):
        assert written(tokenizer, ids[start:]).startswith(f"{response}<|end|>\n<eos>")


@pytest.mark.parametrize("response", ["4", "<think>\nwell\n</think>\n\n4", "a\nb"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_training_on_what_a_model_wrote_adds_no_second_end(name, response):
    tokenizer = with_template(TEMPLATES[name])
    pair = encode_pair(tokenizer, "2?", response, 16, 1)
    answer = [token for token, role in zip(pair.ids, pair.roles, strict=True) if role == Role.RESPONSE]
    text = tokenizer.decode(answer, skip_special_tokens=True)
    row = {"response": ModelAnswerer(SimpleNamespace(tokenizer=tokenizer)).content("2?", text)}
    assert encode_pair(tokenizer, "2?", row["response"], 16, 1) == pair


def test_a_template_that_refuses_the_dialogue_is_one_line():
    tokenizer = with_template("{% if messages | length > 1 %}{{ raise_exception('only\none') }}{% endif %}" + CHATML)
    with pytest.raises(UserError, match=r"chat template: cannot be applied to the conversation \(TemplateError: only "):
        assistant_turn(tokenizer, "2?", "4")
    rows = [Row("2?", "4", "f.jsonl, row 1")]
    with pytest.raises(UserError):
        packed_rows(rows, tokenizer, 16, 256)
