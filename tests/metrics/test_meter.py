from dataclasses import dataclass

import pytest

from dmaxlit.metrics import DecodeMeter


@dataclass
class FakeAnswer:
    num_tokens: int
    num_forwards: int
    finished: bool
    hit_step_limit: int
    stopped: bool = False

    @property
    def ends_with_eos(self):
        return self.finished and not self.stopped


def feed(meter, answers, seconds=2.0):
    meter.update(
        [
            FakeAnswer(tokens, forwards, finished, hit_step_limit)
            for _, tokens, forwards, finished, hit_step_limit, _ in answers
        ],
        [answer[5] for answer in answers],
        [answer[0] for answer in answers],
        seconds,
    )


def test_every_metric_is_fed_its_column(answers):
    meter = DecodeMeter(16)
    feed(meter, answers)
    tokens, forwards = sum(a[1] for a in answers), sum(a[2] for a in answers)
    blocks = sum(len({p // 16 for p in range(a[0], a[0] + a[1])}) for a in answers)
    assert meter.accuracy.counts() == (sum(a[5] for a in answers), len(answers))
    assert meter.tpf.counts() == (tokens, forwards)
    assert meter.ceiling.counts() == (tokens, blocks)
    assert meter.tps.counts() == (tokens, 2.0)
    assert meter.finished.counts() == (sum(a[3] for a in answers), len(answers))
    assert meter.hit_step_limit.counts() == (sum(a[4] for a in answers), blocks)
    published = [(a[1] - a[3]) / (a[2] + 1) for a in answers]
    assert meter.published.counts() == (pytest.approx(sum(published)), len(answers))


def test_only_an_eos_is_taken_off_the_published_count():
    meter = DecodeMeter(16)
    answers = [FakeAnswer(9, 2, True, 0), FakeAnswer(9, 2, True, 0, stopped=True), FakeAnswer(9, 2, False, 0)]
    meter.update(answers, [True] * 3, [0] * 3, 1.0)
    assert meter.published.counts() == (pytest.approx(8 / 3 + 9 / 3 + 9 / 3), 3)
    assert meter.tpf.counts() == (27, 6)
    assert meter.finished.counts() == (2, 3)


def test_a_rank_without_answers_counts_nothing():
    meter = DecodeMeter(16)
    feed(meter, [], seconds=0.0)
    assert meter.accuracy.counts() == (0, 0)


def test_verdicts_must_match_answers(answers):
    with pytest.raises(ValueError, match="right: expected 41 verdicts, got 1"):
        DecodeMeter(16).update([FakeAnswer(1, 1, True, 0)] * 41, [True], [0] * 41, 1.0)
