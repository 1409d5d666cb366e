import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dmaxlit.data.assistant_turn import response_content
from dmaxlit.data.encoding import encode_pair, encode_prompt, encode_prompts, encode_responses, encode_turns
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask
from dmaxlit.tasks.prompts import TemplatedPrompt
from dmaxlit.tokens import Role

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} / {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def word_tokenizer(post=None, **special):
    words = ["<unk>", "user", "assistant", "system", ":", "/", "a", "b", "c", "<s>", "</s>", "<mask>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if post is not None:
        backend.post_processor = processors.TemplateProcessing(single=post, special_tokens=[("<s>", 9), ("</s>", 10)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", mask_token="<mask>", **special
    )


def words_of(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def reference(prompt, response, block_length, eos_fill, eos):
    """One position at a time: EOS until the count is reached, and further until the grid's next block begins."""
    ids, roles = list(prompt), [Role.PROMPT] * len(prompt)
    for token in response:
        ids.append(token)
        roles.append(Role.RESPONSE)
    count = 0
    while True:
        ids.append(eos)
        roles.append(Role.RESPONSE if eos_fill == "block" or count < eos_fill else Role.FILL)
        count += 1
        if len(ids) % block_length == 0 and (eos_fill == "block" or count >= eos_fill):
            return ids, roles


@pytest.mark.parametrize("eos_fill", ["block", 1, 2, 5])
@pytest.mark.parametrize("block_length", [1, 4, 8])
def test_response_eos_and_fill_have_their_roles_at_every_length(eos_fill, block_length):
    tokenizer = ChainTask.tokenizer()
    for length in range(10):
        pair = encode_pair(tokenizer, "3 +1 ?", " ".join(["so"] * length), block_length, eos_fill)
        prompt, so = tokenizer.convert_tokens_to_ids(["3", "+1", "?"]), tokenizer.convert_tokens_to_ids("so")
        expected = reference(prompt, [so] * length, block_length, eos_fill, tokenizer.eos_token_id)
        assert (pair.ids, pair.roles) == expected
        assert all(type(role) is int for role in pair.roles)


@pytest.mark.parametrize("eos_fill", ["row", 0, -1, True])
def test_a_bad_eos_fill_is_refused(eos_fill):
    with pytest.raises(UserError, match="eos_fill: expected 'block' or a count of at least 1, got"):
        encode_pair(ChainTask.tokenizer(), "3", "3", 4, eos_fill)


def test_plain_prompts_are_the_text_alone():
    tokenizer = word_tokenizer()
    assert words_of(tokenizer, encode_prompt(tokenizer, "a b")) == "a b"
    assert encode_prompt(tokenizer, "") == []
    assert encode_prompts(tokenizer, []) == []


def test_a_tokenizer_that_begins_with_bos_and_ends_with_eos_keeps_only_bos():
    tokenizer = word_tokenizer(post="<s> $A </s>", bos_token="<s>")
    assert words_of(tokenizer, encode_prompt(tokenizer, "a")) == "<s> a"
    pair = encode_pair(tokenizer, "a", "b", 4, 1)
    assert words_of(tokenizer, pair.ids) == "<s> a b </s>"
    assert pair.roles == [1, 1, 2, 2]


@pytest.mark.parametrize("special", ["<mask>", "<eos>", "<pad>"])
def test_special_token_text_in_prompt_and_response_is_data(special):
    tokenizer = ChainTask.tokenizer()
    pair = encode_pair(tokenizer, f"3 {special}", f"so {special}", 5, 1)
    marked = tokenizer.convert_tokens_to_ids(special)
    assert pair.ids[:4].count(marked) == 0
    assert pair.ids.count(tokenizer.eos_token_id) == 1


def test_the_chat_template_is_used_up_to_the_assistants_turn():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert words_of(tokenizer, encode_prompt(tokenizer, "a b")) == "user : a b / assistant :"
    turns = [{"role": "system", "content": "c"}, {"role": "user", "content": "a"}]
    pair = encode_pair(tokenizer, turns, "b", 13, 1)
    assert words_of(tokenizer, pair.ids) == "system : c / user : a / assistant : b / </s>"
    assert pair.roles == [Role.PROMPT] * 10 + [Role.RESPONSE] * 3


def test_messages_without_a_template_are_concatenated():
    tokenizer = word_tokenizer()
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert words_of(tokenizer, encode_prompt(tokenizer, turns)) == "a b c"


def test_turns_without_content_and_lists_of_text_parts_need_no_template():
    tokenizer = word_tokenizer()
    parts = [{"type": "text", "text": "a "}, {"text": "b"}, " c"]
    turns = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool"},
        {"role": "user", "content": parts},
    ]
    assert words_of(tokenizer, encode_prompt(tokenizer, turns)) == "a b c"
    tokenizer.chat_template = TEMPLATE
    assert words_of(tokenizer, encode_prompt(tokenizer, turns[2:])) == "user : a b c / assistant :"


@pytest.mark.parametrize("special", ["<mask>", "</s>"])
def test_special_tokens_that_are_words_too_are_refused_in_a_text(special):
    tokenizer = word_tokenizer(post="<s> $A </s>", bos_token="<s>")
    message = f"^tokenizer: expected '{special}' in a text to be text, got its token"
    with pytest.raises(UserError, match=message):
        encode_prompt(tokenizer, f"a {special}")
    with pytest.raises(UserError, match=message):
        encode_responses(tokenizer, ["a", f"a {special} b"])
    assert words_of(tokenizer, encode_prompt(tokenizer, "a <unk>")) == "<s> a <unk>"


def test_many_at_once_equal_one_by_one():
    tokenizer = ChainTask.tokenizer()
    prompts = ["3 ?", "", "4 +1 +1 ?", [{"role": "user", "content": "5 ?"}]]
    assert encode_prompts(tokenizer, prompts) == [encode_prompt(tokenizer, prompt) for prompt in prompts]


def test_a_templated_prompt_is_a_conversation_or_a_text_to_continue():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    turns = [{"role": "system", "content": "c"}, {"role": "user", "content": "a"}]
    plain, chat = TemplatedPrompt("a b"), TemplatedPrompt("c a", turns)
    ids = encode_prompts(tokenizer, [chat, plain, "a", plain])
    assert [words_of(tokenizer, row) for row in ids] == [
        "system : c / user : a / assistant :",
        "a b",
        "user : a / assistant :",
        "a b",
    ]
    turns_after = encode_turns(tokenizer, [plain, chat], ["c", "c"])
    assert [words_of(tokenizer, row) for row in turns_after] == ["c", "c /"]
    assert response_content(tokenizer, plain, "c /") == "c /"
    assert response_content(tokenizer, chat, "c /").strip() == "c"
    tokenizer.chat_template = None
    assert words_of(tokenizer, encode_prompt(tokenizer, chat)) == "c a"
