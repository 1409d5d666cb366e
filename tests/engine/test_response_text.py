"""Text of a response: what is settled stays, and stop texts are found where special tokens or half characters are."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch

from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder, Generation, drafts
from dmaxlit.engine.response_text import ResponseText
from dmaxlit.engine.stop_strings import StopStrings
from dmaxlit.tokens import SpecialTokens
from tests.engine.tokenizers_by_bytes import SPECIAL, TOKENIZERS, encode

PIECES = ["a", "b", " ", "你", "好", "é", "🙂", ".", "\n", "ab", "x", "<|end|>", "<|turn|>"]
STOPS = ["你", "好a", "🙂", "b x", "\n", "<|end|>", "a<|end|>", "<|end|>\n<|turn|>", ".\n<|turn|>", "é<|turn|>x", "zz"]


@pytest.fixture(params=TOKENIZERS, ids=str, scope="module")
def tokenizer(request):
    return TOKENIZERS[request.param]()


class Writer(torch.nn.Module):
    """A denoiser that writes the same tokens, whatever it is fed."""

    def __init__(self, tokenizer, answer, block_length=4):
        super().__init__()
        self.tokenizer, self.block_length, self.max_length = tokenizer, block_length, 512
        self.special = SpecialTokens.of(tokenizer)
        self.vocab_size, self.answer = len(tokenizer), answer
        self.zero = torch.nn.Parameter(torch.zeros(1))
        self.model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=1))

    @property
    def device(self):
        return self.zero.device

    def embed(self, ids):
        return torch.zeros(*ids.shape, 1)

    def embedder(self):
        return self.embed

    def scorer(self):
        return self.logits

    def model_mask(self, allowed, num_queries):
        return allowed

    def hidden(self, allowed, position_ids, cache=None, inputs_embeds=None):
        return position_ids.unsqueeze(-1).float()

    def logits(self, hidden):
        tokens = torch.tensor([*self.answer, *[self.special.eos_id] * self.max_length])[hidden[..., 0].long()]
        return torch.full((*tokens.shape, self.vocab_size), -torch.inf).scatter(-1, tokens.unsqueeze(-1), 0.0)


def engine_for(tokenizer, answer, stop=()):
    return BlockDecoder(Writer(tokenizer, answer), ThresholdDecoder(0.5), stop=stop)


def response(tokenizer, answer, stop=(), budget=64):
    engine = engine_for(tokenizer, answer, stop)
    (sequence,) = engine.decode([[]], budget)
    return Generation.from_sequence(sequence, "", tokenizer, engine.stop)


def answers(tokenizer, number, seed=0, broken=True):
    """Random tokens: whole characters, special tokens and, if ``broken``, single bytes."""
    source = random.Random(seed)
    for _ in range(number):
        ids = []
        for _ in range(source.randint(1, 12)):
            piece = encode(tokenizer, source.choice(PIECES))
            ids += source.sample(piece, 1) if broken and source.random() < 0.25 else piece
        yield ids


def first_stop(tokenizer, ids, stops):
    """Slow reference: write token by token, and stop as soon as a stop text is visible."""
    for length in range(1, len(ids) + 1):
        for with_special in (False, True):
            text = tokenizer.decode(ids[:length], skip_special_tokens=not with_special)
            for stop in stops:
                if stop in text and (not with_special or any(name in stop for name in SPECIAL)):
                    return length
    return None


def test_the_first_token_that_completes_a_stop_text_ends_the_response(tokenizer):
    source, found = random.Random(1), 0
    for ids in answers(tokenizer, 400):
        stops = source.sample(STOPS, 2)
        wanted = first_stop(tokenizer, ids, stops)
        assert StopStrings(tokenizer, stops)(ids) == wanted, (tokenizer.decode(ids), stops)
        found += wanted is not None
    assert 60 < found < 340


def test_the_text_ends_before_the_stop_text(tokenizer):
    for answer, stop, expected in [
        ("yes.<|end|>\n<|turn|>user", "<|end|>", "yes."),
        ("yes.<|end|>\n<|turn|>user", "<|turn|>", "yes.\n"),
        ("yes.<|end|>\n<|turn|>user", "<|end|>\n<|turn|>", "yes."),
        ("yes.<|end|>\n<|turn|>user", ".<|end|>", "yes"),
        ("yes.<|end|>\n<|turn|>user", "\n<|turn|>u", "yes."),
        ("a<|turn|>b<|end|>c", "b<|end|>", "a"),
        ("a<|turn|>b<|end|>c", "b", "a"),
        ("a<|turn|>bc", "ab", ""),
        ("a你好b", "好", "a你"),
        ("<|end|>a", "<|end|>", ""),
        ("<|end|>a", "<|turn|>", "a"),
    ]:
        generation = response(tokenizer, encode(tokenizer, answer), [stop])
        assert generation.text == expected, (answer, stop)
        assert generation.stopped == (stop != "<|turn|>" or "<|turn|>" in answer)
    # The earliest of several, of whatever kind.
    ids = encode(tokenizer, "ab<|end|>c<|turn|>d")
    for stops in (["c", "<|end|>"], ["<|turn|>", "b<|end|>", "d"], ["<|end|>c", "b"]):
        expected = "a" if any(stop.startswith("b") for stop in stops) else "ab"
        assert response(tokenizer, ids, stops).text == expected, stops


def test_a_stop_text_that_eos_completes_is_eos(tokenizer):
    eos = tokenizer.eos_token_id
    generation = response(tokenizer, encode(tokenizer, "ab"), ["<eos>"])
    assert (generation.token_ids[-1], generation.text, generation.finished) == (eos, "ab", True)
    assert generation.ends_with_eos
    assert not generation.stopped
    generation = response(tokenizer, encode(tokenizer, "ab"), ["a"])
    assert (generation.text, generation.stopped, generation.ends_with_eos) == ("", True, False)
    generation = response(tokenizer, encode(tokenizer, "ab"), budget=2)
    assert (generation.text, generation.stopped, generation.ends_with_eos) == ("ab", False, False)


@pytest.mark.parametrize("stops", [(), ("你",), ("<|end|>", "a b"), (".\n<|turn|>", "<|end|>a<|turn|>")])
def test_committed_text_only_grows_into_the_answer(tokenizer, stops):
    grown = 0
    for number, ids in enumerate(answers(tokenizer, 120, seed=2)):
        budget = 64 if number % 2 else max(len(ids) - 1, 1)
        seen = list(drafts(engine_for(tokenizer, ids, stops), [], budget, ""))
        texts = [draft.committed for draft in seen]
        assert all(after.startswith(before) for before, after in itertools.pairwise(texts)), texts
        assert seen[-1].generation == response(tokenizer, ids, stops, budget)
        assert texts[-1] == seen[-1].generation.text
        grown += len(set(texts)) > 2
    assert grown > 10


def test_what_is_settled_stays_whatever_follows(tokenizer):
    text = ResponseText(tokenizer)
    everything = list(range(0, len(tokenizer), 7)) + encode(tokenizer, "".join(PIECES))
    for ids in answers(tokenizer, 60, seed=3):
        settled = text.settled(ids)
        assert text(ids).startswith(settled)
        for token in everything:
            assert text([*ids, token]).startswith(settled)
            assert text.settled([*ids, token]).startswith(settled)


def test_whole_characters_are_settled_once_their_run_has_ended(tokenizer):
    text = ResponseText(tokenizer)
    assert text.settled(encode(tokenizer, "a你好b")) == "a你好b"
    whole = encode(tokenizer, "a你")
    assert text.settled(whole) == ("a你" if "你" in text([*whole, whole[-1]]) else "a")
    assert text.settled(whole[:-1]) == "a"
    assert text.settled([]) == ""


def test_a_space_that_cleaning_up_may_take_away_is_not_settled(tokenizer):
    tokenizer.clean_up_tokenization_spaces = True
    try:
        text = ResponseText(tokenizer)
        for whole in ("ab . x", "do n't x", "ab 've", "a ' b"):
            ids = encode(tokenizer, whole)
            for length in range(len(ids)):
                assert text(ids).startswith(text.settled(ids[:length])), (whole, length)
    finally:
        tokenizer.clean_up_tokenization_spaces = False
