import random
from itertools import chain

import pytest

from dmaxlit.data.prompt_shares import prompt_lengths, prompt_shares
from dmaxlit.errors import PromptError
from dmaxlit.tasks import ChainTask


@pytest.mark.parametrize(("num_ranks", "chunk_length"), [(1, 8), (3, 8), (4, 100)])
def test_every_prompt_is_in_one_share_of_its_chunk_and_the_longest_come_first(num_ranks, chunk_length):
    draw = random.Random(0)
    remaining = sorted(draw.sample(range(100), 30))
    lengths = {index: draw.randint(1, 9) for index in remaining}
    chunks = list(prompt_shares(remaining, lengths, num_ranks, chunk_length))
    assert [sorted(chain(*shares)) for shares in chunks] == [
        remaining[begin : begin + chunk_length] for begin in range(0, 30, chunk_length)
    ]
    for shares in chunks:
        assert len(shares) == num_ranks
        for share in shares:
            assert [lengths[index] for index in share] == sorted((lengths[index] for index in share), reverse=True)
        counts, totals = ([measure(share) for share in shares] for measure in (len, lambda s: sum(map(lengths.get, s))))
        assert max(counts) - min(counts) <= 1
        assert max(totals) - min(totals) <= 9  # no more than one prompt


def test_prompts_of_one_length_keep_their_order():
    assert list(prompt_shares([2, 3, 5], {2: 4, 3: 4, 5: 4}, 1, 10)) == [[[2, 3, 5]]]


def test_a_prompt_without_room_for_an_answer_is_named():
    tokenizer = ChainTask.tokenizer()
    assert prompt_lengths(tokenizer, 4, ["3 ?", "3 +1 ?"]) == [2, 3]
    with pytest.raises(PromptError, match=r"^prompts\[1\]: expected at most 2 tokens \(the context holds 3\), got 3$"):
        prompt_lengths(tokenizer, 3, ["3 ?", "3 +1 ?"])
