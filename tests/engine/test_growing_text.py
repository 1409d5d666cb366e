"""Text and stop texts of a response that grows: the same as of all its tokens, of which few are decoded again."""

import random
from itertools import chain

import pytest
from transformers import PreTrainedTokenizerFast

from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import BlockDecoder, drafts, growing_text
from dmaxlit.engine.growing_text import GrowingText
from dmaxlit.engine.response_text import _UNCLEAN_END, ResponseText
from dmaxlit.engine.stop_strings import StopStrings
from tests.engine.test_response_text import STOPS, Writer, answers, engine_for, first_stop
from tests.engine.tokenizers_by_bytes import SPECIAL, TOKENIZERS, encode


def word_pieces():
    """As BERT's: a space before each token but those that go on with a word."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = "abx.你好é🙂"
    vocab = {piece: index for index, piece in enumerate(["[UNK]", *letters, *(f"##{letter}" for letter in letters)])}
    inner = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", mask_token="<mask>", unk_token="[UNK]")


ALL = {**TOKENIZERS, "word pieces": word_pieces}


@pytest.fixture(params=ALL, ids=str)
def tokenizer(request):
    return ALL[request.param]()


def growing(tokenizer, number, seed):
    """Yield long answers as lists that grow by a few tokens each."""
    source = random.Random(seed)
    parts = list(answers(tokenizer, 6 * number, seed, broken=bool(encode(tokenizer, " "))))
    for index in range(number):
        ids = list(chain(*parts[6 * index : 6 * index + 6]))
        ends = sorted({*source.sample(range(1, len(ids) + 1), len(ids) // 4), len(ids)})
        yield [ids[:end] for end in ends]


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("with_special", [False, True])
def test_the_text_is_that_of_all_tokens(tokenizer, stride, with_special, monkeypatch):
    monkeypatch.setattr(growing_text, "_STRIDE", stride)
    whole, cuts = ResponseText(tokenizer), []
    for number, lists in enumerate(growing(tokenizer, 12, seed=5)):
        text = GrowingText(whole, margin=number % 4, with_special=with_special)
        for ids in lists:
            assert text(ids) == whole(ids, with_special)
            for end in range(0, len(ids), 3):
                assert text(ids, end) == whole(ids[:end], with_special)
            if not with_special:
                assert text.settled(ids) == whole.settled(ids)
            text.settle(ids)
        cuts.append(text.cut / len(ids))
    assert sum(cuts) / len(cuts) > 0.5


class Odd(ResponseText):
    """Texts that no tokenizer makes: each token changes what is before it, or depends on how many these are."""

    def __init__(self, function):
        super().__init__(word_pieces())
        self.function = function

    def __call__(self, token_ids, with_special=False):
        return self.function(token_ids)


@pytest.mark.parametrize(
    "function",
    [
        lambda ids: "".join(map(str, reversed(ids))),
        lambda ids: "".join(str(token + index % 7) for index, token in enumerate(ids)),
    ],
)
def test_texts_that_depend_on_all_tokens_are_decoded_as_a_whole(function):
    text, ids = GrowingText(Odd(function)), list(range(1, 10)) * 30
    for length in range(1, len(ids), 5):
        assert text(ids[:length]) == function(ids[:length])
        text.settle(ids[:length])


@pytest.mark.parametrize("stride", [1, 8])
def test_stop_texts_are_those_of_all_tokens(tokenizer, stride, monkeypatch):
    monkeypatch.setattr(growing_text, "_STRIDE", stride)
    source, found = random.Random(6), 0
    for lists in growing(tokenizer, 60, seed=6):
        stops = StopStrings(tokenizer, source.sample(STOPS, 2))
        search, reader = stops.begin(), stops.begin()
        for ids in lists:
            expected = first_stop(tokenizer, ids, stops._strings)
            assert search(ids) == stops(ids) == expected
            if expected is not None:
                found += 1
                break
            assert reader.settled(ids) == stops.begin().settled(ids)
            reader.settle(ids)
    assert 10 < found < 50


def test_what_cleaning_up_may_rewrite_is_found_at_the_end():
    tokenizer, source = word_pieces(), random.Random(0)
    tokenizer.clean_up_tokenization_spaces = True
    for _ in range(3000):
        text = "".join(source.choices("ab  \n'.", k=source.randint(0, 14)))
        assert ResponseText(tokenizer).without_open_end(text) == _UNCLEAN_END.sub("", text), repr(text)


class Count:
    """Counts the tokens that are handed to a tokenizer."""

    def __init__(self, tokenizer, monkeypatch):
        self.tokens = 0
        for name in ("decode", "convert_ids_to_tokens"):
            monkeypatch.setattr(tokenizer, name, self._counted(getattr(tokenizer, name)))

    def _counted(self, method):
        def call(ids, *args, **options):
            self.tokens += len(ids) if isinstance(ids, list) else 1
            return method(ids, *args, **options)

        return call


TEXTS = {"letters": "ab x.b", "characters": "a你 好é.x🙂b"}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("stops", [(), ("####",), ("####", "<|end|>\n<|turn|>")])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_token_is_decoded_a_few_times_however_long_the_response(name, text, stops, monkeypatch):
    tokenizer = TOKENIZERS[name]()
    ids = (encode(tokenizer, text) * 512)[:496]
    engine = engine_for(tokenizer, ids, stops)
    per_token = []
    for length in (160, 480):
        with monkeypatch.context() as patch:
            count = Count(tokenizer, patch)
            engine.decode([[]], length)
            list(drafts(engine, [], length, ""))
        per_token.append(count.tokens / length)
    assert max(per_token) < 400
    assert per_token[1] < 1.3 * per_token[0]


def test_a_run_of_bytes_is_decoded_a_few_times_for_each_block(monkeypatch):
    tokenizer = TOKENIZERS["byte fallback"]()
    ids = encode(tokenizer, "🙂" * 128)
    count = Count(tokenizer, monkeypatch)
    search = StopStrings(tokenizer, ["🙂a", "<|end|>🙂"]).begin()
    for length in range(5, len(ids), 32):  # within a character
        assert search(ids[:length]) is None
    assert count.tokens < 12 * sum(range(5, len(ids), 32))


def test_requests_of_one_engine_are_searched_one_by_one():
    tokenizer = TOKENIZERS["byte fallback"]()
    answer = encode(tokenizer, "ab" * 10 + "xz" + "ab" * 60)
    engine = BlockDecoder(Writer(tokenizer, answer), ThresholdDecoder(0.5), batch_size=1, stop=["xz"])
    behind, before = engine.decode([answer[:21], []], 100)  # the prompt of the first has a part of the stop text
    assert (behind.num_tokens, before.token_ids) == (100, answer[:22])
