import pytest

from dmaxlit.errors import UserError
from dmaxlit.harness.generation_settings import GenerationSettings


def settings_of(**options):
    return GenerationSettings.of(options, 256)


def test_what_a_request_says_is_read_as_lm_eval_reads_it():
    assert settings_of() == GenerationSettings((), 256, 0.0, 1.0, None)
    assert settings_of(until=["\n", "Q:", ""], max_gen_toks=7).stop == ("\n", "Q:")
    assert settings_of(until="###").stop == ("###",)
    assert settings_of(until=None).stop == ()
    assert settings_of(max_gen_toks=7).max_new_tokens == 7
    assert settings_of(max_new_tokens=7).max_new_tokens == 7
    assert settings_of(max_tokens=7, max_gen_toks=8).max_new_tokens == 8
    assert settings_of(do_sample=True, temperature=0.5, top_p=0.9, seed=3) == GenerationSettings((), 256, 0.5, 0.9, 3)


@pytest.mark.parametrize(
    ("options", "temperature"),
    [
        ({"temperature": 0.7}, 0.7),
        ({"temperature": 0.7, "do_sample": False}, 0.0),
        ({"temperature": 0.7, "do_sample": 0}, 0.0),
        ({"temperature": 0.7, "do_sample": 1}, 0.7),
        ({"temperature": 0.0, "do_sample": True}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": None}, 0.0),
    ],
)
def test_tokens_are_sampled_only_where_the_request_asks_for_it(options, temperature):
    assert settings_of(**options).temperature == temperature


def test_settings_of_other_samplers_change_nothing_without_sampling():
    assert settings_of(do_sample=False, top_p=0.9, top_k=50, min_p=0.1, num_beams=1) == settings_of()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top_k": 50, "temperature": 1.0}, "generation_kwargs: expected until, .*, got top_k=50"),
        ({"num_beams": 4}, "generation_kwargs: expected until, .*, got num_beams=4"),
        ({"tau_dec": 0.3}, "generation_kwargs: expected until, .*, got tau_dec=0.3"),
        ({"max_gen_toks": 0}, "max_gen_toks: expected at least 1, got 0"),
        ({"max_new_tokens": "many"}, "max_new_tokens: expected a whole number, got 'many'"),
        ({"temperature": -1.0}, "temperature: expected a number from 0 to 10000, got -1"),
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0"),
        ({"until": 3}, "until: expected a text or a list of texts, got 3"),
        ({"do_sample": "maybe"}, "do_sample: expected true or false, got 'maybe'"),
        ({"seed": 0.5}, "seed: expected a whole number, got 0.5"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(options, text):
    with pytest.raises(UserError, match=text):
        settings_of(**options)


def test_equal_settings_are_one_group():
    assert len({settings_of(until=["a"]), settings_of(until="a"), settings_of(until=["b"])}) == 2
