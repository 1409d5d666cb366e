import json

import pytest

from dmaxlit.data.encoding import encode_prompt, encode_responses
from dmaxlit.tasks import task
from dmaxlit.tasks.stories import StoriesTask
from dmaxlit.tasks.stories.train_pieces import train_tokenizer
from dmaxlit.tasks.stories.words import NAMES, PLACES, THINGS


@pytest.fixture(scope="module")
def tokenizer():
    return StoriesTask.tokenizer()


def test_text_survives_and_fits_the_budget(tokenizer):
    for difficulty in ("easy", "standard", "hard"):
        stories = task("stories", difficulty=difficulty)
        examples = stories.examples("val", 60)
        encoded = encode_responses(tokenizer, [example.response for example in examples])
        assert tokenizer.batch_decode(encoded) == [example.response for example in examples]
        assert max(map(len, encoded)) < stories.max_new_tokens


def test_standard_answers_span_about_six_blocks_of_32(tokenizer):
    examples = task("stories").examples("val", 60)
    lengths = [len(ids) for ids in encode_responses(tokenizer, [example.response for example in examples])]
    assert 150 < sum(lengths) / len(lengths) < 250
    assert min(lengths) > 110


def test_words_and_digits_are_pieces(tokenizer):
    whole = [word for word in (*NAMES, *THINGS, *PLACES) if len(tokenizer(word)["input_ids"]) == 1]
    assert len(whole) == len((*NAMES, *THINGS, *PLACES))
    assert tokenizer.tokenize("Ada has 305 balls.")[2:5] == ["Ġ3", "0", "5"]


def test_any_text_can_be_encoded_and_special_tokens_are_text(tokenizer):
    text = "Zoë asks: <mask> or ∀x?"
    assert tokenizer.decode(encode_prompt(tokenizer, text)) == text
    assert tokenizer.mask_token_id not in encode_prompt(tokenizer, text)
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id}) == 3


def test_most_pieces_occur_in_the_text(tokenizer):
    examples = [example for d in ("easy", "hard") for example in task("stories", difficulty=d).examples("train", 500)]
    texts = [f"{example.prompt} {example.response}" for example in examples]
    assert len({piece for ids in tokenizer(texts)["input_ids"] for piece in ids}) > 0.75 * len(tokenizer)


def test_training_is_deterministic_and_of_the_shipped_kind(tokenizer):
    first, second = (json.loads(train_tokenizer(600, 40).to_str()) for _ in range(2))
    assert first == second
    assert len(first["model"]["vocab"]) < 600
    shipped = json.loads(tokenizer.backend_tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder", "added_tokens"):
        assert first[part] == shipped[part]
    assert 2000 < len(shipped["model"]["vocab"]) < 4000
