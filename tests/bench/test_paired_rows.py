from types import SimpleNamespace

import pytest
import torch

from dmaxlit.bench import own_time, paired_rows
from dmaxlit.bench.paired_rows import Contestant, count, measure_pair, speed_ratio
from dmaxlit.evaluation.evaluate import DecoderSpec
from dmaxlit.tasks import Example

SPEC = DecoderSpec("spd")
EXAMPLES = [Example(str(number), "yes", lambda text: text == "yes") for number in range(5)]


class Clock:
    """A stand-in for a model: each batch takes some time, and each answer has ten tokens, EOS included."""

    now = 0.0
    device = torch.device("cpu")

    def __init__(self, seconds):
        self.seconds = seconds  # of each batch but those of the warm-up
        self.batches = []
        self.threads = set()

    def task(self):
        return SimpleNamespace(max_new_tokens=32)

    def generate_batch(self, prompts, settings):
        if settings.max_forwards is None:
            Clock.now += self.seconds.pop(0) if isinstance(self.seconds, list) else self.seconds
            self.batches.append(len(prompts))
            self.threads.add(torch.get_num_threads())
        answer = {
            "num_tokens": 10,
            "num_forwards": 4,
            "num_extra_blocks": 3,
            "ends_with_eos": True,
            "hit_step_limit": 1,
        }
        return [SimpleNamespace(text="yes" if prompt != "2" else "no", **answer) for prompt in prompts]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(paired_rows, "own_time", lambda device: Clock.now)


def test_answers_are_counted_prompt_by_prompt():
    figures = count(Contestant(Clock(1.0), SPEC), EXAMPLES)
    assert figures["correct"] == [True, True, False, True, True]
    assert figures["tokens"] == [10] * 5
    assert figures["forwards"] == [4] * 5
    assert figures["extra_blocks"] == [3] * 5
    assert figures["finished"] == [True] * 5
    assert figures["hit_step_limit"] == [1] * 5


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 5), (2, [2, 2, 1]), (16, [5])])
def test_speed_is_relative_to_the_reference_at_the_same_batch(batch_size, batches):
    fast, slow = Clock(1.0), Clock(3.0)
    assert speed_ratio(Contestant(fast, SPEC), Contestant(slow, SPEC), EXAMPLES, batch_size, 2) == pytest.approx(3.0)
    assert fast.batches == slow.batches == 2 * batches


@pytest.mark.parametrize(("num_timed", "batches"), [(0, []), (15, ["1"]), (16, ["1", "16"])])
def test_speed_is_measured_in_batches_that_the_timed_prompts_fill(num_timed, batches):
    pair = Contestant(Clock(1.0), SPEC), Contestant(Clock(2.0), SPEC)
    figures = measure_pair(*pair, EXAMPLES * 4, num_timed, repeats=1)
    assert figures["speed"] == dict.fromkeys(batches, 2.0)
    assert len(figures["correct"]) == 20


def test_the_median_of_the_turns_counts():
    reference = Clock([1.0, 1.0, 100.0])
    ratio = speed_ratio(Contestant(Clock([2.0, 2.0, 2.0]), SPEC), Contestant(reference, SPEC), EXAMPLES, 16, 3)
    assert ratio == pytest.approx(0.5)


def test_the_speed_is_measured_on_one_thread(two_threads):
    fast, slow = Clock(1.0), Clock(3.0)
    speed_ratio(Contestant(fast, SPEC), Contestant(slow, SPEC), EXAMPLES, 2, 1)
    assert (fast.threads, slow.threads, torch.get_num_threads()) == ({1}, {1}, 2)


def test_the_own_time_is_the_process_s_where_it_computes_alone(monkeypatch):
    monkeypatch.setattr(own_time, "device_time", lambda device: f"until {device.type} is done")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert isinstance(own_time.own_time("cpu"), float)
    assert own_time.own_time("cuda") == "until cuda is done"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert own_time.own_time(torch.device("cpu")) == "until cpu is done"
