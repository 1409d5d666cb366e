import pytest

from dmaxlit.decoding import DECODERS, SPDDecoder
from dmaxlit.errors import UserError
from dmaxlit.evaluation.decoder_entries import decoder_entries


def test_several_values_of_the_swept_option_are_points_of_one_curve():
    entries = decoder_entries([{"name": "spd", "options": {"tau_dec": [0.5, 0.0], "soft": False}}, "threshold"])
    assert [(entry.title, entry.line, entry.threshold) for entry in entries] == [
        ("one_token", "one_token", None),
        ("spd tau_dec=0.5 soft=False", "spd soft=False", 0.5),
        ("spd tau_dec=0.0 soft=False", "spd soft=False", 0.0),
        ("threshold", "threshold", None),
    ]
    assert entries[2].spec.options == {"tau_dec": 0.0, "soft": False}


def test_points_that_are_listed_one_by_one_share_their_curve():
    entries = decoder_entries([{"name": "threshold", "options": {"threshold": value}} for value in (0.9, 0.5)])
    assert [entry.line for entry in entries[1:]] == ["threshold", "threshold"]


class Paced(SPDDecoder):
    """A decoder with an option that has no default."""

    def __init__(self, pace: float, tau_dec: float = 0.5) -> None:
        super().__init__(tau_dec)
        self.pace = pace


def test_a_decoder_is_made_of_the_options_that_are_given_only(monkeypatch):
    monkeypatch.setitem(DECODERS._classes, "paced", Paced)
    entries = decoder_entries([{"name": "paced", "options": {"pace": 1.0, "tau_dec": [0.5, 0.0]}}], baseline=False)
    assert [(entry.title, entry.line) for entry in entries] == [
        ("paced pace=1.0 tau_dec=0.5", "paced pace=1.0"),
        ("paced pace=1.0 tau_dec=0.0", "paced pace=1.0"),
    ]
    (entry,) = decoder_entries([{"name": "paced", "sweep": "pace", "options": {"pace": 1.0}}], baseline=False)
    assert (entry.title, entry.line, entry.threshold) == ("paced pace=1.0", "paced", 1.0)
    with pytest.raises(UserError, match="item 1: decoder 'paced': expected the option pace, which has no default"):
        decoder_entries(["paced"])


def test_a_swept_option_s_default_need_not_fit_the_others():
    low = {"name": "hierarchical", "sweep": "tau_low", "options": {"tau_high": 0.3, "tau_low": [0.1, 0.2]}}
    entries = decoder_entries([low], baseline=False)
    assert [(entry.line, entry.threshold) for entry in entries] == [
        ("hierarchical tau_high=0.3", 0.1),
        ("hierarchical tau_high=0.3", 0.2),
    ]


def test_a_label_names_curve_and_points():
    several = {"name": "psd", "label": "drafts", "sweep": "depth", "options": {"depth": [1, 3]}}
    entries = decoder_entries([several, {"name": "spd", "label": "ours", "options": {"tau_dec": 0.5}}], baseline=False)
    assert [(entry.title, entry.line) for entry in entries] == [
        ("drafts depth=1", "drafts"),
        ("drafts depth=3", "drafts"),
        ("ours", "ours"),
    ]


def test_a_window_is_part_of_the_curve_and_of_the_settings():
    wide = {"name": "spd", "options": {"tau_dec": [0.5, 0.0]}, "window": 2, "admission_options": {"theta": 0.8}}
    entries = decoder_entries([wide], baseline=False)
    assert [(entry.title, entry.line) for entry in entries] == [
        ("spd tau_dec=0.5 window=2 progress theta=0.8", "spd window=2 progress theta=0.8"),
        ("spd tau_dec=0.0 window=2 progress theta=0.8", "spd window=2 progress theta=0.8"),
    ]
    settings = entries[0].spec.settings(8, 4)
    assert (settings.window, settings.admission, settings.admission_options) == (2, "progress", {"theta": 0.8})


def test_the_baseline_is_there_once():
    assert [entry.title for entry in decoder_entries(["spd", "one_token"])] == ["spd", "one_token"]
    assert [entry.title for entry in decoder_entries(["spd"], baseline=False)] == ["spd"]


@pytest.mark.parametrize(
    ("entries", "refusal"),
    [
        ([], "decoders: expected at least one decoder, got none"),
        (["nope"], "decoders, item 1: unknown decoder 'nope'"),
        ([{"name": "spd", "options": {"tau": 0.5}}], "decoders, item 1: .*unknown option tau"),
        ([{"name": "spd", "options": {"tau_dec": [0.5, 2]}}], "decoders, item 1: tau_dec: expected a number in .0, 1"),
        ([{"name": "spd", "options": {"tau_dec": [0.5, "x"]}}], "decoders, item 1: "),
        ([{"name": "spd", "options": {"tau_dec": []}}], "decoders, item 1: tau_dec: expected at least one value"),
        ([{"name": "spd", "options": {"tau_dec": [0.5, 0.5]}}], "expected different settings, got 'spd tau_dec=0.5' t"),
        (
            [{"name": "spd", "label": "spd 0"}, {"name": "spd", "label": "spd-0"}],
            "decoders: expected labels that differ in more than spaces and dashes, got 'spd 0' and 'spd-0'",
        ),
        ([{"name": "spd", "label": "one_token"}], "decoders: expected different settings, got 'one_token' twice"),
        (["spd", {"name": "spd", "values": [1]}], "decoders, item 2: expected keys of name, options, label, sweep"),
        ([{"name": "spd", "sweep": "gamma"}], "decoders, item 1: sweep: decoder 'spd' has no option 'gamma'"),
        ([{"name": "spd", "label": 3}], "decoders, item 1: expected texts as label and sweep, got 3"),
        ([{"name": "spd", "label": " "}], "decoders, item 1: label: expected a name"),
        ([{"name": "spd", "window": "2"}], "decoders, item 1: window: expected int, got '2'"),
        ([{"name": "psd", "window": 2}], "decoders, item 1: window: expected 1 for decoder PSDDecoder"),
        ([{"name": "spd", "window": 2, "admission": "no"}], "decoders, item 1: unknown admission policy 'no'"),
        ([{"name": "spd", "admission": "converging"}], "decoders, item 1: admission: expected a window of at least 2"),
        ([None], "decoders, item 1: expected a name, or a mapping .* got None"),
    ],
)
def test_bad_decoders_are_refused_in_one_line(entries, refusal):
    with pytest.raises(UserError, match=refusal) as refused:
        decoder_entries(entries)
    assert "\n" not in str(refused.value)
