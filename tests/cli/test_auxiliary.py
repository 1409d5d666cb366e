"""CoDiLA from the command line: an auxiliary model is trained, exported and decoded with, or refused in one line."""

import pytest
import yaml

from dmaxlit.backbone.formats.model_folder import model_from_config
from dmaxlit.tasks import TASKS
from tests.conftest import TINY

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
GENERATE = "generate --prompt '3 +1 *3 -2 ?' --max_new_tokens 16"


@pytest.fixture
def recipe(base):
    """Write the settings of a short run that trains an auxiliary model."""
    settings = yaml.safe_load(base.read_text())
    settings["model"]["auxiliary"] = {"span_length": 4, "config": TINY}
    settings["model"]["noise"] = {"class_path": "masked", "init_args": {"span_length": 4}}
    base.write_text(yaml.safe_dump(settings))
    return base


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """Write causal language models: one with the tokenizer of the chain task, one with another."""
    folder = tmp_path_factory.mktemp("causal")
    for task in ("chain", "dependency"):
        tokenizer = TASKS.get(task).tokenizer()
        model_from_config(TINY, tokenizer, "sdpa", None).save_pretrained(folder / task)
        tokenizer.save_pretrained(folder / task)
    return folder


def answer(dmax, model, options):
    outcome = dmax(f"{GENERATE} --model {model} {options}")
    assert outcome.status == 0, outcome.err
    return outcome.out.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "--model.auxiliary.lora.r 2"], ids=["full", "lora"])
def test_train_export_and_decode(dmax, recipe, tmp_path, extra):
    assert dmax(f"fit --config {recipe} {extra}").status == 0
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    assert dmax(f"export --model {checkpoint} --output out").status == 0
    assert {path.name for path in (tmp_path / "out" / "auxiliary").iterdir()} >= {"auxiliary.json", "think.safetensors"}
    for options in (
        "--decoder codila",
        "--decoder codila --decoder.mode dynamic --window 2",
        "--decoder codila_verify",
    ):
        assert answer(dmax, checkpoint, options) == answer(dmax, "out", options)


def test_a_causal_model_with_the_tokenizer_is_trained_on(dmax, recipe, causal):
    settings = yaml.safe_load(recipe.read_text())
    settings["model"]["auxiliary"] = {"pretrained": str(causal / "chain")}
    recipe.write_text(yaml.safe_dump(settings))
    assert dmax(f"fit --config {recipe}").status == 0
    refusal = dmax(f"fit --config {recipe} --model.auxiliary.pretrained {causal / 'dependency'}").refusal
    assert refusal.startswith("auxiliary.pretrained: expected the denoiser's tokenizer, got another in ")


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--model.auxiliary.span_length 9", "auxiliary.span_length: expected 2 to 8 tokens, got 9"),
        ("--model.auxiliary.span_length 3", "auxiliary.span_length: expected a divisor of the block length 16, got 3"),
        ("--model.auxiliary.span_length x", "model.auxiliary.span_length: expected int, got 'x'"),
        ("--model.auxiliary.pretrained x", "auxiliary: expected either pretrained or config, got both"),
        ("--model.auxiliary.config null", "auxiliary: expected pretrained or config, for the denoiser has none yet"),
        ("--model.lora.r 2", "auxiliary: expected a frozen denoiser, which lora does not go with"),
        ("--model.noise uniform", "noise: expected views with masks to train an auxiliary model, got"),
        ("--model.noise.span_length 0", "span_length: expected at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(dmax, recipe, flags, refusal):
    assert dmax(f"fit --config {recipe} {flags}").refusal.startswith(refusal)


def test_the_plan_does_not_guess(dmax, recipe):
    assert dmax(f"plan --config {recipe}").refusal.startswith("auxiliary: expected none, for its memory is not")


@pytest.mark.parametrize("decoder", ["codila", "codila_verify"])
def test_a_model_without_an_auxiliary_model_is_refused(dmax, tiny, decoder):
    refusal = dmax(f"{GENERATE} --model {tiny} --decoder {decoder}").refusal
    assert refusal.startswith(f"decoder {decoder}: expected a model with an auxiliary model")
