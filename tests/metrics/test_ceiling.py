import pytest
import torch

from dmaxlit.errors import UserError
from dmaxlit.metrics import TokensPerBlock, answer_blocks, tokens_per_block
from tests.metrics.conftest import check_sharing, column


def blocks_by_counting(prompt, tokens, block_length):
    return len({position // block_length for position in range(prompt, prompt + tokens)})


@pytest.mark.parametrize("block_length", [1, 5, 16])
def test_blocks_are_those_the_positions_lie_in(block_length):
    cases = [(prompt, tokens) for prompt in range(35) for tokens in range(40)]
    prompts, tokens = (torch.tensor(values) for values in zip(*cases, strict=True))
    expected = [blocks_by_counting(prompt, n, block_length) for prompt, n in cases]
    assert answer_blocks(prompts, tokens, block_length).tolist() == expected


def test_tokens_over_blocks(answers):
    expected = sum(a[1] for a in answers) / sum(blocks_by_counting(a[0], a[1], 16) for a in answers)

    def update(metric, chunk):
        metric.update(column(chunk, 0).long(), column(chunk, 1).long())

    check_sharing(lambda: TokensPerBlock(16), update, answers, expected)
    assert float(tokens_per_block(column(answers, 0), column(answers, 1), 16)) == pytest.approx(expected, rel=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="block_length: expected at least 1, got 0"):
        TokensPerBlock(0)
    with pytest.raises(UserError, match="block_length: expected at least 1, got 0"):
        tokens_per_block(torch.tensor([1]), torch.tensor([1]), 0)
    with pytest.raises(ValueError, match="one length"):
        TokensPerBlock(4).update(torch.tensor([1, 2]), torch.tensor([1]))
