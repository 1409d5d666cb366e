"""How a model was judged goes with it: its decoder is the default of generate, its figures are on the card."""

import json

import pytest
import yaml

import dmaxlit
from dmaxlit import UserError
from dmaxlit.backbone.formats.metadata import check_metadata
from dmaxlit.backbone.formats.model_card import make_card
from dmaxlit.decoding import DECODERS, SPDDecoder, make_decoder, to_diffusers, to_sglang

PROMPT = "7 +1 *3 -2 +3 +3 *3 +1 -2 +3 *3 ?"
ROW = {"label": "spd 0", "num_examples": 8, "accuracy": 0.5, "accuracy_low": 0.2, "accuracy_high": 0.8, "tpf": 6.25}
FIGURES = {"task": "chain", "command": "python -m dmaxlit fit --config configs/quickstart.yaml", "rows": [ROW]}


@pytest.fixture(scope="module")
def module():
    return dmaxlit.load("builtin:chain-base")


@pytest.fixture(autouse=True)
def _forget(module):
    yield
    module.decoding = module.figures = None
    module.datasets = []


def counts(answers):
    return [(answer.token_ids, answer.num_forwards) for answer in answers]


def test_the_decoder_it_was_judged_with_is_the_default(module, tmp_path):
    module.set_decoding("threshold", threshold=0.5)
    module.export(tmp_path / "m")
    loaded = dmaxlit.load(tmp_path / "m")
    assert loaded.decoding == {"decoder": "threshold", "options": {"threshold": 0.5}}
    ours = counts(loaded.generate(PROMPT, max_new_tokens=64))
    assert ours == counts(module.generate(PROMPT, "threshold", 64, threshold=0.5))
    *_, draft = loaded.stream(PROMPT, max_new_tokens=64)
    assert counts([draft.generation]) == ours
    # An option alone changes that option; another decoder has nothing of it.
    slow = counts(loaded.generate(PROMPT, max_new_tokens=64, threshold=0.99))
    assert slow == counts(module.generate(PROMPT, "threshold", 64, threshold=0.99)) != ours
    assert counts(loaded.generate(PROMPT, "spd", 64)) == counts(module.generate(PROMPT, "spd", 64))


def test_without_one_the_default_is_spd(module):
    assert module.default_decoding() == ("spd", {})
    assert module.default_decoding(None, {"tau_dec": 0.3}) == ("spd", {"tau_dec": 0.3})
    module.set_decoding("edit", preset="speed")
    module.set_decoding(None)
    assert module.default_decoding() == ("spd", {})


def test_the_options_of_the_decoder_that_another_commits_with_are_stored(module, tmp_path):
    module.set_decoding("codila_verify", schedule_options={"threshold": 0.9})
    module.export(tmp_path / "m")
    assert dmaxlit.load(tmp_path / "m").decoding == module.decoding
    assert "`codila_verify schedule_options={'threshold': 0.9}`" in (tmp_path / "m" / "README.md").read_text()


def test_a_decoder_with_options_that_a_folder_cannot_hold_is_refused(module, monkeypatch):
    class Listing(SPDDecoder):
        def __init__(self, levels):
            super().__init__()

    monkeypatch.setitem(DECODERS._classes, "listing", Listing)
    with pytest.raises(UserError, match="decoder: expected options of numbers and single lines, which a model folder"):
        module.set_decoding("listing", levels=[0.5])
    assert module.decoding is None


def test_a_folder_that_would_be_refused_is_not_written(module, tmp_path):
    module.figures = {**FIGURES, "rows": [{**ROW, "label": "tau <0.5"}]}
    with pytest.raises(UserError, match=r"^output: figures: expected an object with task, command and rows"):
        module.export(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "refusal"),
    [
        ("speed", {}, "unknown decoder 'speed'"),
        ("spd", {"tau": 1}, "decoder 'spd': unknown option tau"),
        ("spd", {"tau_dec": 2.0}, r"tau_dec: expected a number in \[0, 1\], got 2.0"),
        ("dmaxlit.decoding.SPDDecoder", {}, "decoder: expected a registered name, which a model folder can hold"),
    ],
)
def test_what_a_folder_cannot_hold_is_refused(module, name, options, refusal):
    with pytest.raises(UserError, match=refusal):
        module.set_decoding(name, **options)
    assert module.decoding is None


def test_the_card_shows_data_decoder_and_figures_with_their_command(module):
    metadata = {
        "datasets": ["org/corpus"],
        "decoding": {"decoder": "spd", "options": {"tau_dec": 0.0}},
        "figures": FIGURES,
    }
    card = make_card("m", module.backbone.model.config, check_metadata(metadata, "file"))
    assert yaml.safe_load(card.split("---\n")[1])["datasets"] == ["org/corpus"]
    assert "- Decoder: `spd tau_dec=0.0`, the default of `generate`\n" in card
    assert "| spd 0 | 8 | 50.0 [20.0, 80.0] | 6.25 |" in card
    assert "test prompts of `chain`, made by `python -m dmaxlit fit --config configs/quickstart.yaml`:" in card


def test_the_settings_of_other_engines_lie_beside_the_model(module, tmp_path):
    module.set_decoding("edit", preset="speed")
    module.export(tmp_path / "m")
    edit = make_decoder("edit", preset="speed")
    text = (tmp_path / "m" / "sglang.yaml").read_text()
    assert text.startswith("# --dllm-algorithm JointThreshold\n")
    assert yaml.safe_load(text) == to_sglang(edit)["config"]
    assert json.loads((tmp_path / "m" / "diffusers.json").read_text()) == to_diffusers(edit, 32)
    module.set_decoding("spd")
    module.export(tmp_path / "m")
    assert not (tmp_path / "m" / "sglang.yaml").exists()
    assert not (tmp_path / "m" / "diffusers.json").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {"decoding": "spd"},
        {"decoding": {"decoder": "os.system"}},
        {"decoding": {"decoder": "spd", "options": {"tau_dec": [1]}}},
        {"decoding": {"decoder": "spd", "options": {"soft": "a\n# b"}}},
        {"decoding": {"decoder": "spd", "options": {"soft": {"a": "<b>"}}}},
        {"decoding": {"decoder": "spd", "options": {"soft": {"a": {"b": 1}}}}},
        {"datasets": "org/corpus"},
        {"datasets": ["a\nlicense: mit"]},
        {"figures": [1]},
        {"figures": {**FIGURES, "command": "`x`\n# y"}},
        {"figures": {**FIGURES, "split": "`x`\n# y"}},
        {"figures": {**FIGURES, "rows": [{**ROW, "label": "<script>"}]}},
        {"figures": {**FIGURES, "rows": [{**ROW, "label": "\ud800"}]}},
        {"figures": {**FIGURES, "rows": [{**ROW, "label": "a\u2028# b"}]}},
        {"figures": {**FIGURES, "rows": [{**ROW, "accuracy": "1"}]}},
        {"figures": {**FIGURES, "rows": [{**ROW, "accuracy_low": "1"}]}},
    ],
)
def test_metadata_that_would_import_code_or_forge_a_card_are_refused(metadata):
    with pytest.raises(UserError, match=rf"^file: {next(iter(metadata))}: expected "):
        check_metadata(metadata, "file")
