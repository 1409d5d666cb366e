import time
from typing import ClassVar

import pytest

from dmaxlit import DMaxModule
from dmaxlit.decoding import DECODERS, ThresholdDecoder
from dmaxlit.errors import UserError
from dmaxlit.evaluation.evaluate import DecoderSpec, default_budget, evaluate
from dmaxlit.tasks import task
from tests.conftest import make_denoiser


@pytest.fixture(scope="module")
def module():
    return DMaxModule(make_denoiser(sharpen=6.0, max_position_embeddings=64))


@pytest.fixture(scope="module")
def examples():
    return task("chain", operations=3).examples("test", 9)


@pytest.mark.parametrize(
    ("decoder", "options"), [("spd", {"tau_dec": 0.0}), ("threshold", {"threshold": 0.3}), ("uniform", {})]
)
def test_figures_are_those_of_the_answers(module, examples, decoder, options):
    result = evaluate(module, examples, decoder, options, max_new_tokens=20, batch_size=4)
    answers = [module.generate([e.prompt], decoder, max_new_tokens=20, **options)[0] for e in examples]
    tokens, forwards = sum(a.num_tokens for a in answers), sum(a.num_forwards for a in answers)
    blocks = 0
    for example, answer in zip(examples, answers, strict=True):
        start = len(module.encode_prompt(example.prompt))
        blocks += len({position // 8 for position in range(start, start + answer.num_tokens)})
    assert (result.decoder, result.options, result.num_examples) == (decoder, options, 9)
    assert result.tpf == pytest.approx(tokens / forwards)
    assert result.tpf_published == pytest.approx(
        sum((a.num_tokens - a.finished) / (a.num_forwards + 1) for a in answers) / 9
    )
    assert result.tpf_ceiling == pytest.approx(tokens / blocks)
    assert result.tpf <= result.tpf_ceiling
    assert result.forwards_per_answer == pytest.approx(forwards / 9)
    assert result.finished == pytest.approx(sum(a.finished for a in answers) / 9)
    assert result.blocks_at_step_limit == sum(a.hit_step_limit for a in answers)
    assert result.tokens_per_second == pytest.approx(tokens / result.seconds)


def test_stop_texts_end_answers(module, examples):
    whole = module.generate([examples[0].prompt], "threshold", max_new_tokens=20)[0]
    stop = whole.text.split()[2]
    cut = module.generate([examples[0].prompt], "threshold", max_new_tokens=20, stop=[stop])[0]
    assert cut.num_tokens < whole.num_tokens
    result = evaluate(module, examples[:1], "threshold", max_new_tokens=20, stop=[stop])
    assert (result.tpf, result.finished) == (pytest.approx(cut.tpf), 1)


def test_accuracy_is_what_the_checkers_say(module, examples):
    texts = [module.generate([e.prompt], "threshold", max_new_tokens=9)[0].text for e in examples]
    odd = [
        type(example)(example.prompt, "", lambda text, index=index: text == texts[index] and index % 3 == 0)
        for index, example in enumerate(examples)
    ]
    assert evaluate(module, odd, "threshold", max_new_tokens=9).accuracy == pytest.approx(3 / 9)


def test_time_is_that_of_generate_alone_after_a_warm_up(module, examples, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    cost = iter([100.0, 4.0])
    generate_batch, calls = module.generate_batch, []

    def timed(prompts, settings, **options):
        now[0] += next(cost)
        calls.append((len(prompts), settings.max_forwards))
        return generate_batch(prompts, settings, **options)

    monkeypatch.setattr(module, "generate_batch", timed)
    result = evaluate(module, examples, "spd", max_new_tokens=9, batch_size=4)
    assert result.seconds == 4.0
    assert calls == [(4, 4), (9, None)]


def test_progress_is_shown_if_asked_for(module, examples, capsys):
    evaluate(module, examples, "spd", max_new_tokens=9)
    assert capsys.readouterr().err == ""
    evaluate(module, examples, "spd", max_new_tokens=9, progress=True)
    assert "9/9" in capsys.readouterr().err


def test_the_budget_is_that_of_the_models_task(module):
    assert default_budget(module) == 256
    trained = DMaxModule(make_denoiser())
    trained.set_task("chain", {"operations": 3})
    assert default_budget(trained) == task("chain", operations=3).max_new_tokens


def test_bad_input_is_refused(module, examples):
    with pytest.raises(UserError, match="examples: expected at least one, got an empty list"):
        evaluate(module, [])
    with pytest.raises(UserError, match=r"unknown decoder 'sdp'; known: .*spd.*threshold.*uniform"):
        evaluate(module, examples, "sdp")
    with pytest.raises(UserError, match=r"tau_dec: expected a number in \[0, 1\], got 1.2"):
        evaluate(module, examples, "spd", {"tau_dec": 1.2})
    with pytest.raises(UserError, match="unknown option tau; known: "):
        evaluate(module, examples, "spd", {"tau": 0.2})
    with pytest.raises(UserError, match="max_new_tokens: expected at least 1, got 0"):
        evaluate(module, examples, max_new_tokens=0)


def test_names_of_a_spec():
    assert (DecoderSpec("spd").tag, DecoderSpec("spd").title) == ("spd", "spd")
    plain = DecoderSpec("spd", {"tau_dec": 0.1, "soft": False})
    assert (plain.tag, plain.title) == ("spd", "spd tau_dec=0.1 soft=False")
    named = DecoderSpec("spd", {"soft": False}, "hard")
    assert (named.tag, named.title) == ("hard", "hard")


def test_what_a_curve_varies():
    assert DecoderSpec("spd").swept == "tau_dec"
    assert DecoderSpec("threshold").swept == "threshold"
    assert DecoderSpec("uniform").swept is None
    chosen = DecoderSpec("spd", {"soft": False}, "hard", sweep="tau_acc")
    assert chosen.at(0.7) == DecoderSpec("spd", {"soft": False, "tau_acc": 0.7}, "hard", "tau_acc")
    unchecked = DecoderSpec("spd", check_decoder=False)
    assert not unchecked.at(0.7).settings(8, 2).check_decoder
    with pytest.raises(UserError, match="has no threshold to vary"):
        DecoderSpec("uniform").at(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sdp",), "unknown decoder 'sdp'; known: .*spd, t2m, threshold, uniform"),
        (("threshold", {"threshold": -0.1}), r"threshold: expected a number in \[0, 1\], got -0.1"),
        (("spd", {"tau": 1}), "unknown option tau; known: tau_dec"),
        (("spd", {}, " "), "label: expected a name"),
        (("spd", {}, "tau <0.5"), r"label: expected a line without \| ` < and >, got 'tau <0.5'"),
        (("spd", {}, "a\nb"), r"label: expected a line without \| ` < and >, got 'a\\nb'"),
        (("spd", {}, None, "tau"), "sweep: decoder 'spd' has no option 'tau'; known: tau_dec"),
    ],
)
def test_a_bad_spec_is_refused_at_once(arguments, message):
    with pytest.raises(UserError, match=message):
        DecoderSpec(*arguments)


class Stopping(ThresholdDecoder):
    """Has an option with the name of an argument of ``generate``."""

    seeds: ClassVar[list[int]] = []

    def __init__(self, seed: int = 0) -> None:
        super().__init__(0.5)
        self.seeds.append(seed)


def test_a_decoder_option_may_have_the_name_of_an_argument_of_generate(module, examples):
    DECODERS.register("stopping")(Stopping)
    try:
        evaluate(module, examples, "stopping", {"seed": 7}, max_new_tokens=8)
    finally:
        del DECODERS._classes["stopping"]
    assert set(Stopping.seeds) == {7}
