"""What a module offers to its users: batches of prompts, samples, stop texts and streams."""

import itertools

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.engine import Trace


@pytest.fixture(scope="module")
def module():
    return dmaxlit.load("builtin:chain-base")


@pytest.fixture(scope="module")
def prompts(module):
    return [example.prompt for example in module.task().examples("test", 3)]


@pytest.mark.parametrize("decoder", ["spd", "threshold", "wino", "psd"])
def test_a_stream_ends_with_what_generate_returns(module, prompts, decoder):
    (expected,) = module.generate(prompts[:1], decoder)
    drafts = list(module.stream(prompts[0], decoder, check_decoder=False))
    assert drafts[-1].generation == expected
    assert drafts[-1].committed == expected.text
    assert [draft.num_forwards for draft in drafts] == list(range(1, expected.num_forwards + 1))
    assert all(draft.generation is None for draft in drafts[:-1])
    for before, after in itertools.pairwise(drafts):
        assert after.committed.startswith(before.committed)
    assert any("\u2591" in draft.provisional for draft in drafts)


def test_a_stream_computes_as_few_logits_as_generate(module, prompts, monkeypatch):
    scored, score = [], Denoiser._logits

    def counted(denoiser, layer, hidden):
        scored.append(hidden[..., 0].numel())
        return score(denoiser, layer, hidden)

    monkeypatch.setattr(Denoiser, "_logits", counted)
    module.generate(prompts[:1], "threshold")
    expected = scored.copy()
    scored.clear()
    list(module.stream(prompts[0], "threshold"))
    assert scored == expected


def test_committed_text_only_grows_also_before_a_stop_text(module, prompts):
    (whole,) = module.generate(prompts[:1], "threshold")
    words = whole.text.split()
    for at in range(1, len(words) - 1, len(words) // 3):
        stop = " ".join(words[at : at + 2])
        drafts = list(module.stream(prompts[0], "threshold", stop=[stop]))
        for before, after in itertools.pairwise(drafts):
            assert after.committed.startswith(before.committed)
        assert drafts[-1].committed == drafts[-1].generation.text
        assert stop not in drafts[-1].committed


def test_a_stream_can_be_left_early_and_leaves_modes_as_they_were(module, prompts):
    import torch

    module.train()
    try:
        next(module.stream(prompts[0]))
        assert module.training
        assert torch.is_grad_enabled()
    finally:
        module.eval()


def test_samples_follow_the_seed_and_stop_texts_end_answers(module, prompts):
    hot = {"decoder": "threshold", "temperature": 1.5}
    first = module.generate(prompts, seed=1, **hot)
    assert first == module.generate(prompts, seed=1, batch_size=1, **hot)
    assert first != module.generate(prompts, seed=2, **hot)
    for answer in module.generate(prompts, "threshold", stop=["####"]):
        assert answer.finished
        assert "####" not in answer.text
        assert "is" in answer.text


def test_a_trace_holds_every_prompt(module, prompts):
    trace = Trace()
    answers = module.generate(prompts, trace=trace)
    assert [len(trace.rows[i].start) for i in range(3)] == [answer.num_forwards for answer in answers]


def test_bad_options_are_refused_in_one_line(module, prompts):
    for options, message in (
        ({"temperature": -1}, "temperature: expected"),
        ({"stop": "####"}, "stop: expected a list"),
        ({"tau": 0.5}, "unknown option tau"),
    ):
        with pytest.raises(UserError, match=message):
            module.generate(prompts, **options)
        with pytest.raises(UserError, match=message):
            next(module.stream(prompts[0], **options))


@pytest.mark.parametrize("name", ["batch_size", "progress", "trace", "compile"])
def test_arguments_of_generate_that_a_stream_lacks_are_named(module, prompts, name):
    with pytest.raises(UserError, match=f"^{name}: expected by generate alone, got it in stream"):
        module.stream(prompts[0], **{name: None})
