from dmaxlit.decoding import UniformDecoder
from tests.decoding.logits import fresh, run

FIRST, SECOND = [(1, 0.2), (2, 0.9), (3, 0.3)], [(1, 0.3), (4, 0.2), (3, 0.9)]


def test_the_first_forward_fills_every_mask():
    (state,) = run(UniformDecoder(), fresh(UniformDecoder(), 3), FIRST)
    assert state.ids.tolist() == [[1, 2, 3]]
    assert not state.masked.any()
    assert not state.converged.any()


def test_every_position_is_predicted_again_until_nothing_changes():
    states = run(UniformDecoder(), fresh(UniformDecoder(), 3), FIRST, SECOND, SECOND)
    assert states[1].ids.tolist() == [[1, 4, 3]]
    assert [bool(state.converged) for state in states] == [False, False, True]


def test_predictions_at_prompt_positions_play_no_part():
    decoder = UniformDecoder()
    states = run(decoder, fresh(decoder, 3, prompt=(6,)), [(1, 0.9), *FIRST[1:]], [(2, 0.9), *FIRST[1:]])
    assert states[1].ids.tolist() == [[6, 2, 3]]
    assert states[1].converged.all()


def test_alternating_predictions_do_not_converge():
    states = run(UniformDecoder(), fresh(UniformDecoder(), 3), *[FIRST, SECOND] * 3)
    assert not any(bool(state.converged) for state in states)
    assert UniformDecoder().max_steps(3) == 6
