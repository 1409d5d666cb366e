from dmaxlit.decoding import OneTokenDecoder, ThresholdDecoder
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def test_the_most_confident_position_is_committed_and_no_other():
    certain = [(1, 0.9), (2, 1.0), (3, 0.95), (4, 0.99)]
    states = run(OneTokenDecoder(), fresh(OneTokenDecoder()), certain, certain, certain, certain)
    assert [state.ids.tolist()[0] for state in states] == [[M, 2, M, M], [M, 2, M, 4], [M, 2, 3, 4], [1, 2, 3, 4]]
    assert [bool(state.converged) for state in states] == [False, False, False, True]


def test_it_is_threshold_decoding_at_1():
    for steps in ([[(1, 0.9), (2, 1.0)], [(3, 0.2), (4, 0.5)]], [[(1, 0.5), (2, 0.5)], [(3, 0.9), (4, 0.9)]]):
        ours = run(OneTokenDecoder(), fresh(OneTokenDecoder(), 2), *steps)
        theirs = run(ThresholdDecoder(1.0), fresh(ThresholdDecoder(1.0), 2), *steps)
        assert [s.ids.tolist() for s in ours] == [s.ids.tolist() for s in theirs]
