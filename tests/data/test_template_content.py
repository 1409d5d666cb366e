"""Templates that read the content of a message as a text, as a list of parts, or as both."""

import pytest

from dmaxlit.data.assistant_turn import AssistantTurn, assistant_turn
from dmaxlit.data.encoding import encode_pair, encode_prompt
from dmaxlit.data.template_content import readable_turn
from dmaxlit.errors import UserError
from tests.data.chat_tokenizers import byte_level

TURN = "<|turn|>{{ m['role'] }}\n"
END = "<|close|>\n{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
PARTS = "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
LOOP = "{% for m in messages %}"
TEMPLATES = {
    "text": LOOP + TURN + "{{ m['content'] }}" + END,
    # As Gemma 3's and Llama 4's.
    "both": LOOP + TURN + "{% if m['content'] is string %}{{ m['content'] }}{% else %}" + PARTS + "{% endif %}" + END,
    # As those of LLaVA and SmolVLM, which write nothing for a text.
    "parts": LOOP + TURN + PARTS + END,
    "selected": LOOP
    + TURN
    + "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    + END,
    "first part": LOOP + TURN + "{{ m['content'][0]['text'] }}" + END,
    "strict": LOOP
    + "{% if m['content'] is string %}{{ raise_exception('expected a list of parts') }}{% endif %}"
    + TURN
    + PARTS
    + END,
    # The system's turn alone is read as a list.
    "mixed": LOOP + TURN + "{% if m['role'] == 'system' %}" + PARTS + "{% else %}{{ m['content'] }}{% endif %}" + END,
    "answers": LOOP
    + TURN
    + "{% if m['role'] == 'assistant' %}"
    + PARTS
    + "{% else %}{{ m['content'] }}{% endif %}"
    + END,
}
DIALOGUE = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "2?"}]}]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_writes_the_whole_dialogue(name):
    expected = byte_level(TEMPLATES["text"])
    texts = [{**turn, "content": "2?" if turn["role"] == "user" else turn["content"]} for turn in DIALOGUE]
    tokenizer = byte_level(TEMPLATES[name])
    for prompt, plain in [(DIALOGUE, texts), ("2? <|close|>", "2? <|close|>"), (DIALOGUE[1:], texts[1:])]:
        assert encode_prompt(tokenizer, prompt) == encode_prompt(expected, plain)
        assert encode_pair(tokenizer, prompt, "4<|mask|>", 16) == encode_pair(expected, plain, "4<|mask|>", 16)
        assert assistant_turn(tokenizer, prompt, "4") == AssistantTurn("", "4", "<|close|>\n")


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("text", []),
        ("both", []),
        ("parts", ["user", "system", "assistant", "tool"]),
        ("strict", ["user", "system", "assistant", "tool"]),
        ("mixed", ["system"]),
        ("answers", ["assistant"]),
    ],
)
def test_only_what_the_template_does_not_read_as_text_is_a_list(name, roles):
    tokenizer = byte_level(TEMPLATES[name])
    for role in ("user", "system", "assistant", "tool"):
        content = readable_turn(tokenizer, {"role": role, "content": "a", "name": None})
        expected = [{"type": "text", "text": "a"}] if role in roles else "a"
        assert content == {"role": role, "content": expected}


def test_a_call_without_content_stays_so():
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    assert readable_turn(byte_level(TEMPLATES["parts"]), turn) == turn


def test_a_template_that_reads_neither_is_one_line():
    tokenizer = byte_level("{{ raise_exception('images only') }}")
    with pytest.raises(UserError, match=r"^chat template: cannot be applied .*\(TemplateError: images only\)$"):
        encode_prompt(tokenizer, "a")
