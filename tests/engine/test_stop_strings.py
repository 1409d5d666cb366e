from itertools import product

import pytest
from transformers import PreTrainedTokenizerFast

from dmaxlit import UserError
from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder, Generation
from dmaxlit.engine.stop_strings import StopStrings, _possible_start
from tests.engine.scripted import SPECIAL, ScriptedDenoiser


@pytest.fixture
def tokenizer():
    """Tokens 0 ... 6 are the letters a ... g, without spaces between them."""
    from tokenizers import Tokenizer, decoders, models

    vocab = {letter: number for number, letter in enumerate("abcdefg")} | {"<pad>": 7, "<eos>": 8, "<mask>": 9}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", mask_token="<mask>")


def decode(tokenizer, stop, eos_at=None, budget=20, prompt=(0, 1)):
    script = lambda position, fed: SPECIAL.eos_id if position == eos_at else position % 7  # noqa: E731
    denoiser = ScriptedDenoiser(script)
    denoiser.tokenizer = tokenizer
    engine = BlockDecoder(denoiser, ThresholdDecoder(0.0), stop=stop)
    (row,) = engine.decode([list(prompt)], budget)
    return row, Generation.from_sequence(row, "ab", tokenizer, engine.stop)


def test_a_response_ends_with_the_token_that_completes_the_text(tokenizer):
    row, generation = decode(tokenizer, ["fg"])
    assert row.token_ids == [2, 3, 4, 5, 6]  # positions 2 to 6; "fg" lies in the block of positions 4 to 7
    assert row.finished
    assert generation.text == "cde"


def test_the_text_may_span_blocks(tokenizer):
    row, generation = decode(tokenizer, ["de"])  # positions 3 and 4
    assert (row.token_ids, generation.text, row.num_forwards) == ([2, 3, 4], "c", 2)


def test_the_first_of_several_texts_counts(tokenizer):
    for stop in (["g", "d"], ["d", "g"]):
        row, generation = decode(tokenizer, stop)
        assert (row.token_ids, generation.text) == ([2, 3], "c")


def test_eos_before_it_counts_first_and_the_prompt_is_not_searched(tokenizer):
    row, generation = decode(tokenizer, ["g"], eos_at=4)
    assert (row.token_ids, generation.text) == ([2, 3, 8], "cd")
    row, _ = decode(tokenizer, ["ab"], budget=5)
    assert (len(row.token_ids), row.finished) == (5, False)


def test_without_it_nothing_is_cut(tokenizer):
    row, generation = decode(tokenizer, ["aa"], budget=7)
    assert (row.token_ids, row.finished, generation.text) == ([2, 3, 4, 5, 6, 0, 1], False, "cdefgab")


@pytest.mark.parametrize("bad", [["", "x"], "text", [3]])
def test_bad_texts_are_refused(tokenizer, bad):
    with pytest.raises(UserError, match="stop: expected a list of texts, none of them empty"):
        StopStrings(tokenizer, bad)


def test_the_longest_end_that_may_begin_a_stop_text_is_found():
    texts = ["".join(letters) for length in range(6) for letters in product("ab", repeat=length)]
    for string, text in product(filter(None, texts), texts):
        lengths = [n for n in range(1, min(len(string), len(text) + 1)) if text.endswith(string[:n])]
        assert _possible_start(string, text) == (len(text) - lengths[-1] if lengths else -1)


def test_a_text_whose_letters_do_not_begin_the_stop_text_is_passed_over_at_once():
    class Counted(str):
        __slots__ = ("looks",)

        def startswith(self, *args):
            self.looks += 1
            return super().startswith(*args)

    string = Counted("a" + "b" * 10_000)
    string.looks = 0
    assert _possible_start(string, "b" * 20_000) == -1
    assert string.looks == 0
