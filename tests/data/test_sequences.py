import pytest

from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.sequences import SequenceMaker
from dmaxlit.errors import UserError
from dmaxlit.tasks.records import BadRows

EOS, BOS = 0, 1
TEXT = Row(None, "a text", "f.txt")


def windows(num_tokens, before=(), limit=8, block_length=4, eos_fill="block"):
    maker = SequenceMaker(limit, block_length, eos_fill, EOS, BadRows("error"))
    return list(maker.sequences(TEXT, before, range(10, 10 + num_tokens)))


def pair(num_prompt, num_response, limit=8, block_length=4, eos_fill="block"):
    maker = SequenceMaker(limit, block_length, eos_fill, EOS, BadRows("error"))
    row = Row("a prompt", "a response", "f.jsonl")
    return list(maker.sequences(row, range(10, 10 + num_prompt), range(20, 20 + num_response)))


def test_the_eos_of_a_pair_ends_with_the_length():
    assert pair(1, 2, eos_fill=3) == [([10, 20, 21, EOS, EOS, EOS], 1)]
    assert pair(2, 4, eos_fill=32) == [([10, 11, 20, 21, 22, 23, EOS, EOS], 2)]
    assert pair(2, 5, eos_fill=32) == [([10, 11, 20, 21, 22, 23, 24, EOS], 2)]
    for eos_fill in ("block", 1, 32):
        with pytest.raises(UserError, match=r"^f.jsonl: is too long \(9 tokens with EOS, at most 8\)$"):
            pair(2, 6, eos_fill=eos_fill)


def test_a_short_text_is_one_window_ended_by_eos():
    assert windows(1) == [([10, EOS, EOS, EOS], 0)]
    assert windows(4) == [([10, 11, 12, 13, EOS, EOS, EOS, EOS], 0)]
    assert windows(2, [BOS]) == [([BOS, 10, 11, EOS], 1)]


def test_a_long_text_is_cut_into_windows_without_a_gap():
    assert windows(18) == [(list(range(10, 18)), 0), (list(range(18, 26)), 0), ([26, 27, EOS, EOS], 0)]
    assert windows(9, [BOS]) == [([BOS, *range(10, 17)], 1), ([17, 18, EOS, EOS], 0)]


@pytest.mark.parametrize(("num_tokens", "before"), [(16, []), (15, [BOS])])
def test_no_window_holds_eos_alone(num_tokens, before):
    assert [ids for ids, _ in windows(num_tokens, before)] == [
        [*before, *range(10, 18 - len(before))],
        list(range(18 - len(before), 26 - len(before))),
    ]


def test_a_count_of_eos_ends_with_the_window():
    assert windows(9, eos_fill=3)[1] == ([18, EOS, EOS, EOS], 0)
    assert windows(15, eos_fill=3)[1] == ([*range(18, 25), EOS], 0)
    assert windows(1, eos_fill=1) == [([10, EOS], 0)]


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize("eos_fill", ["block", 1, 5])
def test_every_token_is_in_exactly_one_window(length, eos_fill):
    cut = [ids for ids, _ in windows(length, [BOS], 12, 4, eos_fill)]
    assert [token for ids in cut for token in ids if token != EOS] == [BOS, *range(10, 10 + length)]
    assert all(len(ids) == 12 and EOS not in ids for ids in cut[:-1])
    assert 0 < len(cut[-1]) <= 12
    assert cut[-1][0] != EOS


def test_a_text_without_tokens_is_a_bad_row():
    with pytest.raises(UserError, match=r"^f.txt: has an empty text$"):
        windows(0, [BOS])
