"""What commands do with the model and the settings they are given: mistakes are blamed on their arguments."""

import pytest

from dmaxlit import UserError
from dmaxlit.cli import analyse, compare, evaluate, generate, trace
from dmaxlit.cli.arguments import call


@pytest.mark.parametrize(
    "command",
    [
        "generate --prompt 3 --max_new_tokens 4",
        "distill --num_prompts 1 --keep all --max_new_tokens 4 --output c.jsonl",
        "evaluate --tasks chain --task.chain.operations 3 --num_prompts 1 --max_new_tokens 4 --output evaluated",
        "export --output exported",
    ],
)
def test_the_probe_of_a_model_is_skipped_by_name(dmax, tiny, monkeypatch, command):
    def refuse(denoiser):
        raise UserError("no denoiser")

    monkeypatch.setattr("dmaxlit.backbone.denoiser.check_behavior", refuse)
    assert dmax(f"{command} --model {tiny}").refusal == "no denoiser"
    assert dmax(f"{command} --model {tiny} --probe false").status == 0


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Return what a command is called with that reads a file of settings."""

    def run(module, line, content, *args):
        given = {}
        monkeypatch.setattr(module, "call", lambda parser, _, args: call(parser, given.update, args))
        (tmp_path / "x.yaml").write_text(content)
        command, *rest = line.split()
        module.run(command, [*rest, "--config", str(tmp_path / "x.yaml"), *args])
        return given

    return run


@pytest.mark.parametrize(
    ("module", "command", "content", "args", "values"),
    [
        (generate, "generate", "prompt: 7 +1 *3 ?", (), {"prompt": ["7 +1 *3 ?"]}),
        (generate, "generate", "{prompt: a, stop: b}", ("--prompt", "c"), {"prompt": ["a", "c"], "stop": ["b"]}),
        (generate, "generate", "prompt: [a, b]", (), {"prompt": ["a", "b"]}),
        (analyse, "analyse order", "{trace: t.safetensors, answers: a}", (), {"trace": ["t.safetensors"]}),
        (trace, "trace", "{traces: t.safetensors, rows: 3}", (), {"traces": ["t.safetensors"], "rows": [3]}),
        (compare, "compare", "runs: ev1", (), {"runs": ["ev1"]}),
        (compare, "compare", "runs: ev1", ("a", "b"), {"runs": ["a", "b"]}),
        (evaluate, "evaluate", "compare: [a, b]", (), {"compare": ["a", "b"]}),
    ],
)
def test_a_text_in_a_file_is_a_list_of_one(read, module, command, content, args, values):
    extra = ("--model", "m") if module is generate else ("--output", "o.html") if module is trace else ()
    given = read(module, command, content, *extra, *args)
    assert {name: given[name] for name in values} == values


def test_a_flag_that_is_a_comment_in_yaml_is_a_text(read):
    given = read(generate, "generate --model m", "{}", "--prompts=#x", "--output=#a.jsonl", "--decoder.name=#b")
    assert (given["prompts"], given["output"], given["decoder_options"]) == ("#x", "#a.jsonl", {"name": "#b"})


@pytest.mark.parametrize(
    ("module", "content", "refusal"),
    [
        (generate, "prompt: 7", r"prompt: expected a text or a list of texts, got \[7\]"),
        (generate, "prompt: [a, 7]", r"prompt: expected a text or a list of texts, got \['a', 7\]"),
        (compare, "runs: {a: b}", "runs: expected a text or a list of texts, got "),
        (evaluate, "compare: ev1", r"compare: expected a list of 2 texts, got \['ev1'\]"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(read, module, content, refusal):
    extra = ("--model", "m") if module is generate else ()
    with pytest.raises(UserError, match=refusal):
        read(module, "command", content, *extra)


def test_flags_take_precedence_over_files_wherever_they_stand(read):
    flags = ("--model", "m", "--temperature", "0.7", "--decoder.tau_dec", "0.3")
    content = "{temperature: 0.1, top_p: 0.5, decoder: spd, decoder_options: {tau_dec: 0.9, tau_acc: 0.8}}"
    for module, line, args in ((generate, "generate", flags), (generate, " ".join(("generate", *flags)), ())):
        given = read(module, line, content, *args)
        assert (given["temperature"], given["top_p"]) == (0.7, 0.5)
        assert given["decoder_options"] == {"tau_dec": 0.3, "tau_acc": 0.8}


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("generate --model m", "--conf"),
        ("generate --model m", "--temp"),
        ("fit", "--conf"),
        ("fit", "--model.optimize"),
    ],
)
def test_a_flag_in_short_is_refused_as_what_reads_flags_before_the_parser_would_not_know_it(dmax, command, flag):
    assert dmax(f"{command} {flag} x").refusal.startswith(f"unknown setting '{flag.lstrip('-')}'")
