"""One set of settings stands behind every way to decode."""

import json

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.decoding import ThresholdDecoder
from dmaxlit.engine import DecodeSettings

HOT = DecodeSettings("threshold", {"threshold": 0.6}, 48, batch_size=2, temperature=1.3, top_p=0.9, seed=4)


@pytest.fixture(scope="module")
def module():
    return dmaxlit.load("builtin:chain-base")


@pytest.fixture(scope="module")
def prompts(module):
    return [example.prompt for example in module.task().examples("test", 5)]


def test_generate_is_generate_batch_with_the_same_settings(module, prompts):
    options = {"max_new_tokens": 48, "temperature": 1.3, "top_p": 0.9, "seed": 4}
    assert module.generate(prompts, "threshold", threshold=0.6, **options) == module.generate_batch(prompts, HOT)


def test_a_list_decoded_in_parts_gives_the_samples_of_the_whole(module, prompts):
    whole = module.generate_batch(prompts, HOT)
    parts = module.generate_batch(prompts[:3], HOT) + module.generate_batch(prompts[3:], HOT, first_index=3)
    assert parts == whole
    assert module.generate_batch(prompts[3:], HOT) != whole[3:]


def test_every_setting_reaches_the_engine(module):
    settings = DecodeSettings("spd", {"tau_dec": 0.3}, 9, 3, 7, 0.5, 0.8, 11, ["so"], True)
    engine = settings.make_engine(module.backbone, first_index=2)
    assert (engine.batch_size, engine.max_forwards, engine.compile) == (3, 7, True)
    sampler = engine.sampler
    assert (sampler.temperature, sampler.top_p, sampler.seed, sampler.first_index) == (0.5, 0.8, 11, 2)
    tokens = module.tokenizer("3 +1 so")["input_ids"]
    assert engine.stop.text(tokens).split() == ["3", "+1"]
    assert engine.decoder.tau_dec == 0.3


def test_the_identity_holds_what_responses_depend_on_and_no_more():
    identity = HOT.identity()
    assert identity == {
        "decoder": "threshold",
        "decoder_options": {"threshold": 0.6},
        "max_new_tokens": 48,
        "temperature": 1.3,
        "top_p": 0.9,
        "seed": 4,
        "stop": [],
    }
    assert json.loads(json.dumps(identity)) == identity
    assert DecodeSettings(max_forwards=3).identity()["max_forwards"] == 3


def test_a_decoder_without_a_name_has_no_identity():
    with pytest.raises(UserError, match="decoder: expected a name, which a file can hold, got a ThresholdDecoder"):
        DecodeSettings(ThresholdDecoder()).identity()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DecodeSettings("nope"), "unknown decoder 'nope'"),
        (DecodeSettings("spd", {"tau": 1.0}), "unknown option tau"),
        (DecodeSettings(temperature=-1.0), "temperature: expected"),
        (DecodeSettings(batch_size=0), "batch_size: expected at least 1, got 0"),
        (DecodeSettings(max_forwards=0), "max_forwards: expected at least 1, got 0"),
        (DecodeSettings(admission="converging"), "admission: expected a window of at least 2 for a policy"),
        (DecodeSettings(admission_options={"theta": 0.1}), "admission: expected a window of at least 2 for a policy"),
        (DecodeSettings(stop="text"), "stop: expected a list of texts"),
    ],
)
def test_bad_settings_are_refused_when_the_engine_is_made(module, settings, message):
    with pytest.raises(UserError, match=message):
        settings.make_engine(module.backbone)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_forwards", 2.5, "int or none, got 2.5"),
        ("max_new_tokens", "8", "int, got '8'"),
        ("max_new_tokens", 8.5, "int, got 8.5"),
        ("batch_size", None, "int, got None"),
        ("window", None, "int, got None"),
        ("temperature", "hot", "float, got 'hot'"),
        ("top_p", None, "float, got None"),
        ("seed", 1.0, "int, got 1.0"),
        ("seed", None, "int, got None"),
        ("check_decoder", "no", "bool, got 'no'"),
        ("admission_options", [1], "a mapping from str to Any, got "),
    ],
)
def test_settings_of_another_type_are_refused(module, name, value, expected):
    with pytest.raises(UserError, match=f"^{name}: expected {expected}"):
        module.generate_batch(["3 +1 ?"], {name: value})


def test_settings_that_are_none_are_refused(module):
    with pytest.raises(UserError, match=r"settings: expected names among decoder, .*, got foo$"):
        module.generate_batch(["3 +1 ?"], {"foo": 1})
    with pytest.raises(UserError, match="settings: expected DecodeSettings or a mapping, got a value of type int"):
        module.generate_batch(["3 +1 ?"], 5)
    with pytest.raises(UserError, match=r"trace: expected a Trace .*, got a value of type bool"):
        module.generate(["3 +1 ?"], trace=True)
    for stop, got in ((None, "None"), (7, "a value of type int"), ({"a"}, "a value of type set")):
        with pytest.raises(UserError, match=f"^stop: expected a list of texts, got {got}$"):
            DecodeSettings(stop=stop)
    with pytest.raises(UserError, match=r"admission: expected a name, .*, got a value of type int"):
        module.generate(["3 +1 ?"], admission=5)


def test_prompts_may_have_any_indices_in_the_whole_list(module, prompts):
    whole = module.generate_batch(prompts, HOT)
    assert module.generate_batch([prompts[4], prompts[1]], HOT, first_index=[4, 1]) == [whole[4], whole[1]]


def test_the_title_names_what_responses_depend_on():
    assert DecodeSettings("spd", {"tau_dec": 0.3}).title == "spd tau_dec=0.3"
    wide = DecodeSettings("spd", window=2, admission_options={"theta": 0.8}, temperature=0.5)
    assert wide.title == "spd window=2 progress theta=0.8 temperature=0.5 top_p=1.0 seed=0"
