import pytest

from dmaxlit import UserError
from dmaxlit.decoding import Decoder, SPDDecoder, ThresholdDecoder, make_decoder
from dmaxlit.decoding.admission import make_admission
from dmaxlit.tasks import task


class Custom(Decoder):
    """A user's decoder."""

    def __init__(self, pace=1, **rest):
        super().__init__(**rest)
        self.pace = pace

    def step(self, state, logits, special):
        return state


def test_a_decoder_by_name_takes_its_options():
    decoder = make_decoder("spd", tau_dec=0.25, soft=False)
    assert isinstance(decoder, SPDDecoder)
    assert (decoder.tau_dec, decoder.soft) == (0.25, False)


def test_a_decoder_by_class_and_a_ready_one():
    decoder = make_decoder(Custom, pace=3, max_steps=7)
    assert (decoder.pace, decoder.max_steps(4)) == (3, 7)
    assert make_decoder(decoder) is decoder


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown decoder 'spdd'; known: codila, .*, uniform, wino"):
        make_decoder("spdd")


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(
        UserError, match="decoder 'threshold': unknown option tau; known: threshold, max_tokens, max_steps"
    ):
        make_decoder("threshold", tau=0.3)


def test_a_missing_option_is_named():
    class Needy(Custom):
        def __init__(self, pace, **rest):
            super().__init__(pace, **rest)

    with pytest.raises(UserError, match="decoder 'Needy': expected the option pace, which has no default, got none"):
        make_decoder(Needy, max_steps=7)
    assert make_decoder(Needy, pace=2).pace == 2


class PassesOn(ThresholdDecoder):
    """Passes on what it does not know, and gives the next one an option."""

    def __init__(self, pace: int = 1, **rest):
        super().__init__(max_tokens=2, **rest)


class Wraps(Custom):
    """Takes the options of another decoder, which it passes on to nobody."""

    def __init__(self, inner: str = "spd", **inner_options):
        super().__init__()
        self.inner = make_decoder(inner, **inner_options)


class Gives(Decoder):
    def __init__(self, name: str, **rest):
        super().__init__(**rest)
        self.name = name

    def step(self, state, logits, special):
        return state


class Given(Gives):
    def __init__(self, **rest):
        super().__init__(name="given", **rest)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Custom, {"foo": 3}, "decoder 'Custom': unknown option foo; known: pace, max_steps"),
        (PassesOn, {"foo": 3}, "decoder 'PassesOn': unknown option foo; known: pace, threshold, max_tokens, max_steps"),
        (PassesOn, {"threshold": "high"}, "threshold: expected float, got 'high'"),
        (PassesOn, {"pace": 0.5}, "pace: expected int, got 0.5"),
        (PassesOn, {"max_steps": "7"}, "max_steps: expected int or none, got '7'"),
        (PassesOn, {"max_tokens": 3}, "decoder 'PassesOn': expected no max_tokens, which it sets itself, got one"),
        (Gives, {"max_steps": 3}, "decoder 'Gives': expected the option name, which has no default, got none"),
        (Wraps, {"tau": 0.5}, "decoder 'spd': unknown option tau; known: tau_dec"),
    ],
)
def test_options_that_are_passed_on_are_checked_too(cls, options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        make_decoder(cls, **options)


def test_options_that_are_passed_on_or_used_by_the_class_itself_are_taken():
    decoder = make_decoder(PassesOn, threshold=0.5, max_steps=7)
    assert (decoder.threshold, decoder.max_tokens, decoder.max_steps(4)) == (0.5, 2, 7)
    assert make_decoder(Wraps, tau_dec=0.25).inner.tau_dec == 0.25
    assert make_decoder(Given, max_steps=3).name == "given"


def test_an_error_within_a_constructor_is_left_as_it_is():
    class Broken(Custom):
        def __init__(self, **rest):
            super().__init__(**rest)
            len(3)

    with pytest.raises(TypeError, match="has no len"):
        make_decoder(Broken, max_steps=3)


def test_a_ready_decoder_takes_no_options():
    with pytest.raises(UserError, match="expected none for a ready SPDDecoder, got tau_dec"):
        make_decoder(SPDDecoder(), tau_dec=0.1)


@pytest.mark.parametrize(
    ("decoder", "options", "message"),
    [
        ("threshold", {"threshold": "abc"}, "threshold: expected float, got 'abc'"),
        ("threshold", {"threshold": None}, "threshold: expected float, got None"),
        ("threshold", {"max_tokens": 2.5}, "max_tokens: expected int or none, got 2.5"),
        ("spd", {"contiguous": "maybe"}, "contiguous: expected bool, got 'maybe'"),
        ("spd", {"top_k": True}, "top_k: expected int, got True"),
        ("factor", {"factor": float("inf")}, "factor: expected float, got inf"),
        ("factor", {"factor": float("nan")}, "factor: expected float, got nan"),
        ("factor", {"factor": "0.5"}, "factor: expected float, got '0.5'"),
        ("psd", {"policy": 3}, "policy: expected 'confidence' or 'local_leap', got 3"),
    ],
)
def test_options_of_another_type_are_refused(decoder, options, message):
    with pytest.raises(UserError, match=message):
        make_decoder(decoder, **options)


def test_integers_and_none_are_accepted_where_they_fit():
    assert make_decoder("threshold", threshold=1, max_tokens=None).threshold == 1


def test_a_class_without_a_step_is_refused():
    class Idle(Decoder):
        pass

    with pytest.raises(UserError, match="decoder: expected a class that implements step, got Idle"):
        make_decoder(Idle)


def test_a_custom_constructor_need_not_set_max_steps():
    class Fixed(ThresholdDecoder):
        def __init__(self):
            self.threshold, self.max_tokens = 0.5, None

    assert make_decoder(Fixed).max_steps(8) == 8


@pytest.mark.parametrize(("make", "kind"), [(make_decoder, "decoder"), (make_admission, "admission")])
def test_what_is_no_name_object_or_class_of_the_kind_is_refused(make, kind):
    for value, got in ((5, "a value of type int"), (dict, "class dict"), (None, "None")):
        with pytest.raises(UserError, match=f"{kind}: expected a name, a [a-zA-Z]+ or a subclass of it, got {got}"):
            make(value)


def test_an_option_may_have_the_name_of_the_argument_before_it():
    with pytest.raises(UserError, match="decoder 'threshold': unknown option decoder; known: threshold"):
        make_decoder("threshold", decoder=1)
    with pytest.raises(UserError, match="admission 'progress': unknown option policy; known: theta"):
        make_admission("progress", policy=1)
    with pytest.raises(UserError, match="task 'chain': unknown option name"):
        task("chain", name=1)
