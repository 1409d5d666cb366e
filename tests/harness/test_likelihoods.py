"""Likelihoods, asked for by lm-eval itself."""

import warnings

import pytest

import dmaxlit
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.likelihood import Continuation, Likelihood

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402

from dmaxlit.harness.adapter import DMaxLM  # noqa: E402

CHOICES = ["1", "so 2", "then 4 gives 4 and 5 so 5", "take 4 by 4 is"]


@pytest.fixture(scope="module")
def lm(model_folder):
    return DMaxLM(model_folder, mc_samples=5, seed=3)


def bounds(folder, pairs, **settings):
    """Return bound and greediness of pairs of contexts and continuations, by the library."""
    settings = {"mc_samples": 5, "seed": 3, **settings}
    scores = Likelihood(dmaxlit.load(folder).backbone, **settings)([Continuation(*pair) for pair in pairs])
    return [(bound, is_greedy) for _, bound, is_greedy in sorted(scores)]


def close(scores):
    return [(pytest.approx(bound, abs=1e-3), is_greedy) for bound, is_greedy in scores]


def scored(lm, pairs):
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    return lm.loglikelihood(requests, disable_tqdm=True)


def test_lm_eval_chooses_the_answer_with_the_highest_bound(model_folder, write_task):
    rows = [{"question": question, "choices": CHOICES, "gold": 2} for question in ("1 +1 ?", "5 *3 -2 ?")]
    task = write_task(
        rows,
        output_type="multiple_choice",
        doc_to_choice="choices",
        doc_to_target="gold",
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    result = lm_eval.simple_evaluate("dmaxlit", f"pretrained={model_folder},mc_samples=5,seed=3", **task, batch_size=3)
    encode = dmaxlit.load(model_folder).tokenizer.encode
    best = 0
    for row, sample in zip(rows, result["samples"]["local"], strict=True):
        expected = bounds(model_folder, [(encode(row["question"]), encode(choice)) for choice in CHOICES])
        assert [response[0] for response in sample["resps"]] == close(expected)
        best += max(range(4), key=lambda index: expected[index][0]) == 2
    assert result["results"]["local"]["acc,none"] == best / 2


def test_lm_eval_measures_perplexity_in_windows(model_folder, write_task):
    text = " ".join(str(number % 10) for number in range(300))
    task = write_task(
        [{"question": text}],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{question}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )
    model = {"pretrained": model_folder, "mc_samples": 2, "seed": 3}
    result = lm_eval.simple_evaluate("dmaxlit", model, **task)
    module = dmaxlit.load(model_folder)
    ids, prefix = module.tokenizer.encode(text), module.tokenizer.eos_token_id
    assert len(ids) == 300
    # The context holds 128: the prefix and 127 tokens, 127 more after one of context, and the rest after all that fit.
    windows = [([prefix], ids[:127]), (ids[126:127], ids[127:254]), (ids[172:254], ids[254:])]
    assert all(len(context) + len(tokens) == 128 for context, tokens in windows)
    expected = sum(bound for bound, _ in bounds(model_folder, windows, mc_samples=2))
    assert result["samples"]["local"][0]["resps"][0][0] == pytest.approx(expected, abs=1e-2)


def test_the_order_is_kept_and_nothing_to_score_is_certain(lm, model_folder):
    pairs = [("1 +1 ?", " so 2 +1 is 3 then 4"), ("", "so 1"), ("1 " * 40, " 5"), ("1 +1 ? ", "")]
    encode = lm.tokenizer.encode
    expected = bounds(
        model_folder,
        [
            (encode("1 +1 ?"), encode("so 2 +1 is 3 then 4")),
            ([lm.prefix_token_id], encode("so 1")),
            (encode("1 " * 40), encode("5")),
        ],
    )
    assert scored(lm, pairs) == [*close(expected), (0.0, True)]


def test_a_context_that_is_too_long_loses_its_beginning_which_is_said_once(lm, model_folder):
    pairs = [("1 2 " * 100, "so 1"), ("1 2 " * 100, "5"), ("1", "5")]
    with pytest.warns(DMaxWarning, match="contexts: 2 of 3 are too long for the 128 tokens") as caught:
        scores = scored(lm, pairs)
    assert len(caught) == 1
    ids = lm.tokenizer.encode("1 2 " * 100)
    short = [(ids[-126:], lm.tokenizer.encode("so 1")), (ids[-127:], lm.tokenizer.encode("5"))]
    assert scores[:2] == close(bounds(model_folder, short))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored(lm, pairs[2:])


def test_what_cannot_be_scored_is_refused(lm, model_folder):
    with pytest.raises(UserError, match="continuation: expected at most 128 tokens, got 129"):
        scored(lm, [("1", " 2" * 129)])
    with pytest.raises(UserError, match="mc_samples: expected at least 1, got 0"):
        DMaxLM(model_folder, mc_samples=0)


def test_a_chat_is_scored_as_the_template_encodes_it(chat_model_folder):
    lm = DMaxLM(chat_model_folder, mc_samples=5, seed=3)
    messages = [{"role": "user", "content": "1 +1 ?"}]
    prompt = dmaxlit.data.encoding.encode_prompts(lm.tokenizer, [messages])[0]
    expected = bounds(chat_model_folder, [(prompt, lm.tokenizer.encode("so 2"))])
    assert scored(lm, [(lm.apply_chat_template(messages), "so 2")]) == close(expected)
