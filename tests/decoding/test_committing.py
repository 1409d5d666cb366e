"""The base of decoders that commit: the most confident position is looked for only where a row selects none."""

from dmaxlit.decoding import ThresholdDecoder, committing
from tests.decoding.logits import fresh, logits_of
from tests.engine.scripted import SPECIAL

SURE, UNSURE = [(1, 0.9), (2, 0.8), (3, 0.4), (4, 0.3)], [(1, 0.3), (2, 0.4), (3, 0.35), (4, 0.3)]


def step(*rows):
    decoder = ThresholdDecoder(0.5)
    state = fresh(decoder)
    for _ in rows[1:]:
        state = state.join(fresh(decoder))
    return decoder.step(state, logits_of(*rows), SPECIAL).masked.tolist()


def test_no_position_is_ranked_where_every_row_selects_one(monkeypatch):
    expected = step(SURE, SURE)
    monkeypatch.setattr(committing, "most_confident", None)
    assert step(SURE, SURE) == expected == [[False, False, True, True]] * 2


def test_rows_that_select_none_commit_one_next_to_rows_that_do():
    assert step(SURE, UNSURE) == [[False, False, True, True], [True, False, True, True]]
