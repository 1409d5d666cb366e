import pytest

from dmaxlit import UserError
from dmaxlit.decoding import GenerateThenEditDecoder
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def test_the_draft_comes_first_and_is_not_edited_before_it_is_whole():
    decoder = GenerateThenEditDecoder(tau_draft=0.5)
    first, second = run(decoder, fresh(decoder, 3), [(1, 0.6), (2, 0.4), (3, 0.3)], [(5, 0.9), (2, 0.6), (3, 0.7)])
    assert first.ids.tolist() == [[1, M, M]]
    assert second.ids.tolist() == [[1, 2, 3]]
    assert not second.converged.any()


def test_at_0_the_draft_is_one_forward_and_what_is_not_believed_is_rewritten():
    decoder = GenerateThenEditDecoder(tau_keep=0.3)
    states = run(
        decoder,
        fresh(decoder, 3),
        [(1, 0.2), (2, 0.3), (3, 0.2)],
        [(1, 0.4), (5, 0.9), (6, 0.5)],  # the old tokens have 0.4, 0.0125 and 0.0625
        [(1, 0.9), (5, 0.9), (6, 0.9)],
    )
    assert [state.ids.tolist()[0] for state in states] == [[1, 2, 3], [1, 5, 6], [1, 5, 6]]
    assert [bool(state.converged) for state in states] == [False, False, True]


def test_the_least_believed_are_rewritten_first_if_only_some_may_be():
    decoder = GenerateThenEditDecoder(tau_keep=0.5, max_edits=1)
    states = run(
        decoder,
        fresh(decoder, 2),
        [(1, 0.2), (2, 0.3)],
        [(5, 0.6), (6, 0.9)],
        [(5, 0.6), (6, 0.9)],
        [(5, 0.6), (6, 0.9)],
    )
    assert [state.ids.tolist()[0] for state in states] == [[1, 2], [1, 6], [5, 6], [5, 6]]
    assert [bool(state.converged) for state in states] == [False, False, False, True]


def test_at_0_nothing_is_ever_rewritten():
    decoder = GenerateThenEditDecoder(tau_keep=0.0)
    states = run(decoder, fresh(decoder, 1), [(1, 0.2)], [(5, 1.0)])
    assert [(state.ids.tolist()[0], bool(state.converged)) for state in states] == [([1], False), ([1], True)]


def test_options_out_of_range_are_refused():
    with pytest.raises(UserError, match="max_edits: expected at least 1, got 0"):
        GenerateThenEditDecoder(max_edits=0)
