import math

import pytest
import torch

from dmaxlit.errors import UserError
from dmaxlit.metrics import CONVENTIONS, TokensPerForward, tokens_per_forward
from tests.metrics.conftest import check_sharing, column


def update(metric, answers):
    metric.update(column(answers, 1).long(), column(answers, 2).long(), column(answers, 3).bool())


def test_ours_is_all_tokens_over_all_forwards(answers):
    tokens = forwards = 0
    for _, n, f, *_ in answers:
        tokens += n
        forwards += f
    check_sharing(TokensPerForward, update, answers, tokens / forwards)


def test_published_is_the_mean_of_ratios_without_eos_and_with_a_prefill(answers):
    ratios = []
    for _, n, f, finished, *_ in answers:
        ratios.append(((n - 1) if finished else n) / (1 + f))
    check_sharing(lambda: TokensPerForward("published"), update, answers, sum(ratios) / len(ratios))


def test_without_eos_is_all_other_tokens_over_all_forwards(answers):
    tokens = forwards = 0
    for _, n, f, finished, *_ in answers:
        tokens += n - 1 if finished else n
        forwards += f
    check_sharing(lambda: TokensPerForward("without_eos"), update, answers, tokens / forwards)


def test_the_conventions_differ(answers):
    columns = column(answers, 1), column(answers, 2), column(answers, 3)
    values = {name: float(tokens_per_forward(*columns, convention=name)) for name in CONVENTIONS}
    assert set(values) == {"dmaxlit", "published", "without_eos"}
    assert values["dmaxlit"] != pytest.approx(values["published"], rel=0.01)
    assert values["without_eos"] < values["dmaxlit"]


def test_an_unfinished_answer_has_no_eos_to_drop():
    tokens, forwards = torch.tensor([8]), torch.tensor([3])
    assert float(tokens_per_forward(tokens, forwards, torch.tensor([False]), "published")) == 2.0
    assert float(tokens_per_forward(tokens, forwards, torch.tensor([True]), "published")) == 1.75


def test_forwards_that_hold_the_prompt_s_are_charged_as_they_are():
    tokens, forwards, ends_with_eos = torch.tensor([8, 6]), torch.tensor([3, 2]), torch.tensor([False, False])
    assert float(tokens_per_forward(tokens, forwards, ends_with_eos, "published", prefill=0)) == (8 / 3 + 6 / 2) / 2
    assert float(tokens_per_forward(tokens, forwards, ends_with_eos, prefill=1)) == 14 / 7
    with pytest.raises(UserError, match="prefill: expected at least 0, got -1"):
        tokens_per_forward(tokens, forwards, ends_with_eos, prefill=-1)


def test_no_answers_have_no_tpf():
    none = torch.tensor([], dtype=torch.long)
    assert all(math.isnan(tokens_per_forward(none, none, none.bool(), name)) for name in CONVENTIONS)


def test_unknown_convention_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown TPF convention 'nfe'; known: dmaxlit, published, without_eos"):
        TokensPerForward("nfe")


def test_an_answer_without_a_forward_is_refused():
    with pytest.raises(ValueError, match="forwards"):
        TokensPerForward().update(torch.tensor([3]), torch.tensor([0]), torch.tensor([True]))


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        TokensPerForward().update(torch.tensor([3, 4]), torch.tensor([1]), torch.tensor([True]))


def test_large_counts_stay_exact():
    metric = TokensPerForward()
    many = torch.tensor([2**31 + 1])
    for _ in range(3):
        metric.update(many, many - 1, torch.tensor([True]))
    assert metric.counts() == (3 * 2**31 + 3, 3 * 2**31)


def test_the_eos_that_is_not_counted_goes_by_its_name():
    answers = {"tokens": torch.tensor([10, 6]), "forwards": torch.tensor([2, 6])}
    ends_with_eos = torch.tensor([True, False])
    metric = TokensPerForward("without_eos")
    metric.update(**answers, ends_with_eos=ends_with_eos)
    expected = tokens_per_forward(**answers, ends_with_eos=ends_with_eos, convention="without_eos")
    assert metric.compute() == expected == 15 / 8
