"""A response ends with any of the tokens that the tokenizer or the model's configs name as its end."""

from types import SimpleNamespace

import pytest

from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder, Generation, drafts
from dmaxlit.engine.end_of_response import eos_ids
from tests.engine.test_response_text import Writer
from tests.engine.tokenizers_by_bytes import byte_level, encode


def writer(tokenizer, text, config=None, generation_config=None):
    denoiser = Writer(tokenizer, encode(tokenizer, text))
    denoiser.model = SimpleNamespace(
        config=SimpleNamespace(num_hidden_layers=1, eos_token_id=config),
        generation_config=SimpleNamespace(eos_token_id=generation_config),
    )
    return denoiser


def ends(denoiser):
    return eos_ids(denoiser.model, denoiser.tokenizer)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


def test_the_ids_are_those_of_tokenizer_config_and_generation_config(tokenizer):
    eos, mask, end, turn = tokenizer.convert_tokens_to_ids(["<eos>", "<mask>", "<|end|>", "<|turn|>"])
    assert ends(writer(tokenizer, "")) == {eos}
    assert ends(writer(tokenizer, "", config=end)) == {eos, end}
    assert ends(writer(tokenizer, "", generation_config=[end, eos])) == {eos, end}
    assert ends(writer(tokenizer, "", config=[turn], generation_config=[end])) == {eos, end, turn}
    # A default that nobody has set (2 in Llama's config) is a letter here; the mask is no end.
    assert ends(writer(tokenizer, "", config=2, generation_config=[mask, 3])) == {eos}


@pytest.mark.parametrize("generation_config", [None, "end"])
def test_a_response_ends_with_any_of_them(tokenizer, generation_config):
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    denoiser = writer(tokenizer, "yes.<|end|>no", generation_config=None if generation_config is None else [end])
    engine = BlockDecoder(denoiser, ThresholdDecoder(0.5))
    (sequence,) = engine.decode([[]], 32)
    generation = Generation.from_sequence(sequence, "", tokenizer)
    assert generation.text == ("yes.no" if generation_config is None else "yes.")
    assert (generation.token_ids[-1] == end) == (generation_config is not None)
    assert generation.ends_with_eos
    seen = list(drafts(engine, [], 32, ""))
    assert seen[-1].generation == generation
    if generation_config is not None:
        assert not any("no" in draft.provisional for draft in seen)


def test_an_end_that_is_an_ordinary_token_is_no_part_of_the_text(tokenizer):
    from dmaxlit.engine import DecodedSequence

    letters = encode(tokenizer, "yes.")
    assert Generation.from_sequence(DecodedSequence(letters, 1, True, 0), "", tokenizer).text == "yes"
    stopped = DecodedSequence(letters, 1, True, 0, stopped=True)
    assert Generation.from_sequence(stopped, "", tokenizer).text == "yes."
