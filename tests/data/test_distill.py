import contextlib
import hashlib
import json
import signal
from dataclasses import asdict, replace

import pytest
import torch

import dmaxlit
from dmaxlit import DMaxModule
from dmaxlit.data import distill as distilling
from dmaxlit.data.distill import Manifest, distill
from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.data.resumable_jsonl import PartialCorpus, manifest_path
from dmaxlit.errors import UserError
from dmaxlit.files import weights_hash, write_json
from dmaxlit.tasks import ChainTask
from dmaxlit.version import __version__
from tests.conftest import make_denoiser
from tests.lock_holder import held_by_another

SETTINGS = DistillSettings(num_prompts=40, batch_size=2)
TASK = ChainTask("easy")
PROMPTS = [example.prompt for example in TASK.examples("train", 40)]


def run(module, output, settings=SETTINGS, source=TASK, **options):
    return distill(module, source, output, settings, progress=False, **options)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def kind(prompt):
    return sum(map(ord, prompt)) % 5


def test_every_finished_answer_is_kept_in_order(fake_module, tmp_path):
    output, module = tmp_path / "c.jsonl", fake_module()
    manifest = run(module, output)
    kept = [prompt for prompt in PROMPTS if kind(prompt) != 0]
    assert 0 < len(kept) < 40
    assert rows_of(output) == [{"prompt": p, "response": module.answer(p).text} for p in kept]
    assert (manifest.prompts, manifest.finished, manifest.kept) == (40, len(kept), len(kept))
    assert manifest.correct == sum(kind(prompt) > 1 for prompt in PROMPTS)
    assert manifest.tpf == 3.0


def test_only_right_answers_are_kept_on_request(fake_module, tmp_path):
    manifest = run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, keep="correct"))
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == [p for p in PROMPTS if kind(p) > 1]
    assert manifest.kept == manifest.correct < manifest.finished


def test_all_answers_are_kept_on_request(fake_module, tmp_path):
    run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, keep="all"))
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == PROMPTS


def test_the_decoder_gets_its_options_and_the_tasks_budget(fake_module, tmp_path):
    module = fake_module()
    run(module, tmp_path / "a.jsonl")
    expected = {"decoder": "threshold", "decoder_options": {"threshold": 0.95}, "max_new_tokens": TASK.max_new_tokens}
    assert module.calls[0][1].items() >= {**expected, "batch_size": 2}.items()
    settings = replace(SETTINGS, decoder="spd", decoder_options={"tau_dec": 0.3}, max_new_tokens=7)
    module = fake_module()
    run(module, tmp_path / "b.jsonl", settings)
    expected = {"decoder": "spd", "decoder_options": {"tau_dec": 0.3}, "max_new_tokens": 7}
    assert module.calls[0][1].items() >= expected.items()


def test_the_manifest_records_the_origin_of_the_corpus(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    manifest = run(fake_module(), output)
    written = json.loads(manifest_path(output).read_text())
    assert written == asdict(manifest)
    assert written["version"] == __version__
    assert written["seconds"] > 0
    settings = written["settings"]
    assert settings["model"] == weights_hash(fake_module())
    assert (settings["task"], settings["task_options"]) == ("chain", TASK.options())
    assert (settings["decoder"], settings["decoder_options"], settings["seed"]) == ("threshold", {"threshold": 0.95}, 0)
    assert settings["prompts"] == hashlib.sha256(json.dumps(PROMPTS).encode()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "c.jsonl.manifest.json"]


def test_the_weights_hash_knows_every_weight_type_and_shape(fake_module):
    def changed(change):
        module = fake_module()
        change(module.backbone.model)
        return weights_hash(module)

    hashes = {
        changed(change)
        for change in (
            lambda model: None,
            lambda model: model[0].weight.data[0, 0].add_(1e-6),
            lambda model: model.to(torch.bfloat16),
            lambda model: model[0].register_buffer("more", torch.zeros(1)),
        )
    }
    assert len(hashes) == 4
    assert weights_hash(fake_module()) in hashes


@pytest.mark.parametrize("fails", [False, True])
def test_decoding_is_in_eval_mode_and_every_mode_is_restored(tmp_path, fails):
    module = DMaxModule(make_denoiser()).train()
    layers = module.backbone.model.model.layers
    layers[1].eval()
    modes = set()

    def note(*_):
        modes.add((layers[0].training, layers[1].training, module.backbone.training))
        if fails:
            raise KeyboardInterrupt

    layers[0].register_forward_hook(note)
    settings = replace(SETTINGS, num_prompts=3, keep="all", max_new_tokens=8)
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        run(module, tmp_path / "c.jsonl", settings)
    assert modes == {(False, False, False)}
    assert module.training
    assert module.backbone.training
    assert (layers[0].training, layers[1].training) == (True, False)


@pytest.mark.parametrize("fail_at", [0, 1, 7, 40])
@pytest.mark.parametrize("torn", [b"", b'{"prompt": "torn'])
def test_an_interrupted_run_is_resumed_without_losing_or_duplicating_a_row(fake_module, tmp_path, fail_at, torn):
    whole = run(fake_module(random=True), tmp_path / "whole.jsonl")
    output = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt) if fail_at < 40 else contextlib.nullcontext():
        run(fake_module(fail_at, random=True), output)
    if fail_at < 40:
        assert not output.exists()
        assert not manifest_path(output).exists()
    with (tmp_path / "c.jsonl.partial").open("ab") as file:
        file.write(torn)
    module = fake_module(random=True)
    manifest = run(module, output)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert replace(manifest, seconds=0.0) == replace(whole, seconds=0.0)
    begin = fail_at // 2 * 2  # answers come in pairs, the second of a pair first
    assert [prompts for prompts, *_ in module.calls] == ([PROMPTS[begin:]] if fail_at < 40 else [])


@pytest.fixture(scope="module")
def chain_base():
    return dmaxlit.load("builtin:chain-base")


SAMPLED = DistillSettings(num_prompts=7, keep="all", max_new_tokens=24, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def sampled(chain_base, tmp_path_factory):
    output = tmp_path_factory.mktemp("sampled") / "c.jsonl"
    run(chain_base, output, SAMPLED)
    return output.read_bytes()


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("interrupted_after", [None, 1, 4])
def test_a_sampled_corpus_depends_on_seed_and_row_only(
    chain_base, sampled, tmp_path, monkeypatch, batch_size, interrupted_after
):
    output, settings = tmp_path / "c.jsonl", replace(SAMPLED, batch_size=batch_size)
    if interrupted_after is not None:
        genuine, taken = chain_base.generate_batch, []

        def generate_batch(*args, on_response, **options):
            def take(index, response):
                if len(taken) == interrupted_after:
                    raise KeyboardInterrupt
                taken.append(index)
                on_response(index, response)

            return genuine(*args, on_response=take, **options)

        with monkeypatch.context() as patch:
            patch.setattr(chain_base, "generate_batch", generate_batch)
            with pytest.raises(KeyboardInterrupt):
                run(chain_base, output, replace(settings, batch_size=2))
        assert not output.exists()
    torch.manual_seed(batch_size)
    run(chain_base, output, settings)
    assert output.read_bytes() == sampled


def test_a_sampled_corpus_depends_on_seed_temperature_and_nucleus(chain_base, sampled, tmp_path):
    corpora = [sampled]
    for number, change in enumerate([{"seed": 4}, {"temperature": 0.0}, {"temperature": 2.0}, {"top_p": 0.8}]):
        manifest = run(chain_base, tmp_path / f"{number}.jsonl", replace(SAMPLED, **change))
        corpora.append((tmp_path / f"{number}.jsonl").read_bytes())
        assert manifest.settings.get("temperature", 0.0) == {**asdict(SAMPLED), **change}["temperature"]
    assert len(set(corpora)) == 5
    state = torch.get_rng_state()
    run(chain_base, tmp_path / "again.jsonl", SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_are_those_that_generate_returns(chain_base, sampled):
    prompts = [example.prompt for example in TASK.examples("train", 7)]
    answers = chain_base.generate(prompts, "threshold", 24, threshold=0.95, temperature=1.0, seed=3)
    assert [json.loads(line)["response"] for line in sampled.splitlines()] == [answer.text for answer in answers]


def test_a_manifest_from_before_there_was_a_temperature_still_counts(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    manifest = run(fake_module(), output)
    assert not {"temperature", "top_p", "batch_size"} & manifest.settings.keys()
    for change in ({"temperature": 0.7}, {"top_p": 0.5}):
        with pytest.raises(UserError, match=r"other settings: (temperature|top_p) was None, now 0\.\d"):
            run(fake_module(), output, replace(SETTINGS, **change))


@pytest.mark.slow
def test_a_killed_process_is_resumed_without_losing_or_duplicating_a_row(
    fake_module, fake_script, run_script, tmp_path
):
    output = tmp_path / "c.jsonl"
    killed = run_script(fake_script, output)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    recorded = json.loads((tmp_path / "c.jsonl.progress.json").read_text())["progress"]
    assert recorded["prompts"] == 4
    assert (tmp_path / "c.jsonl.partial").stat().st_size > recorded["offset"]
    assert not output.exists()
    module = fake_module()
    run(module, output)
    assert [prompt for prompts, *_ in module.calls for prompt in prompts] == PROMPTS[4:]
    run(fake_module(), tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_resuming_with_another_batch_size_is_allowed(fake_module, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(fake_module(2), tmp_path / "c.jsonl")
    run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, batch_size=3, check_decoder=False))
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == [p for p in PROMPTS if kind(p) != 0]


def test_another_chat_template_makes_another_corpus(fake_module, tmp_path):
    output, module = tmp_path / "c.jsonl", fake_module()
    assert run(module, output).settings["chat_template"] is None
    module.tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(UserError, match=r"other settings: chat_template was None, now '[0-9a-f]{64}'"):
        run(module, output)
    template = run(module, output, overwrite=True).settings["chat_template"]
    assert template == hashlib.sha256(b'["{{ messages[0].content }}"]').hexdigest()


@pytest.mark.parametrize("whole", [True, False])
def test_other_settings_are_refused_by_name_or_overwritten(fake_module, tmp_path, whole):
    output = tmp_path / "c.jsonl"
    if whole:
        run(fake_module(), output)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(fake_module(3), output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = fake_module()
    other.backbone.model[0].weight.data.add_(1)
    for module, settings, source, name in [
        (other, SETTINGS, TASK, "model"),
        (fake_module(), replace(SETTINGS, num_prompts=39), TASK, "num_prompts"),
        (fake_module(), replace(SETTINGS, decoder_options={"threshold": 0.9}), TASK, "decoder_options"),
        (fake_module(), SETTINGS, ChainTask("easy", seed=1), "task_options"),
        (fake_module(), replace(SETTINGS, max_new_tokens=64), PROMPTS, "task"),
    ]:
        with pytest.raises(UserError, match=f"other settings: {name} was"):
            run(module, output, settings, source)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    manifest = run(other, output, overwrite=True)
    assert manifest.settings["model"] == weights_hash(other)


def test_a_whole_corpus_is_left_alone(fake_module, tmp_path):
    output, module = tmp_path / "c.jsonl", fake_module()
    first = run(fake_module(), output)
    assert run(module, output) == first
    assert isinstance(first, Manifest)
    assert module.calls == []


def test_a_foreign_file_is_not_overwritten(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    output.write_text("mine")
    with pytest.raises(UserError, match=r"c.jsonl: exists and has no manifest"):
        run(fake_module(), output)
    assert output.read_text() == "mine"


def test_prompts_of_ones_own(fake_module, tmp_path):
    settings = replace(SETTINGS, max_new_tokens=9)
    manifest = run(fake_module(), tmp_path / "c.jsonl", settings, PROMPTS[:7])
    assert (manifest.prompts, manifest.correct, manifest.settings["task"]) == (7, None, None)
    assert manifest.settings["num_prompts"] == 7


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (TASK, {"num_prompts": 0}, "num_prompts: expected at least 1, got 0"),
        (TASK, {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        (TASK, {"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        (TASK, {"decoder": "nope"}, "unknown decoder 'nope'"),
        (TASK, {"decoder_options": {"tau": 1}}, "decoder 'threshold': unknown option tau"),
        (TASK, {"decoder_options": {"temperature": 1.0}}, r"expected no temperature, .* its own \(--temperature\)"),
        (TASK, {"decoder_options": {"seed": 1}}, r"expected no seed, which is a setting of its own \(--seed\)"),
        (TASK, {"temperature": -1.0}, "temperature: expected a number from 0 to 10000, got -1.0"),
        (TASK, {"temperature": float("nan")}, "temperature: expected a number from 0 to 10000, got nan"),
        (TASK, {"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
        (TASK, {"keep": "some"}, "keep: expected 'finished', 'correct' or 'all', got 'some'"),
        ([], {"max_new_tokens": 9}, "prompts: expected at least one, got none"),
        (PROMPTS, {}, "max_new_tokens: expected a number"),
        (PROMPTS, {"max_new_tokens": 9, "keep": "correct"}, "keep: expected a task for 'correct'"),
    ],
)
def test_bad_settings_are_refused(fake_module, tmp_path, source, settings, message):
    with pytest.raises(UserError, match=message):
        run(fake_module(), tmp_path / "c.jsonl", replace(SETTINGS, **settings), source)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_corpus_is_refused_and_leaves_nothing(fake_module, tmp_path):
    unfinished = [prompt for prompt in PROMPTS if kind(prompt) == 0]
    settings = replace(SETTINGS, max_new_tokens=9)
    with pytest.raises(UserError, match=f"got 0 finished of {len(unfinished)}, none kept"):
        run(fake_module(), tmp_path / "c.jsonl", settings, unfinished)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown(fake_module, tmp_path, capsys):
    distill(fake_module(), TASK, tmp_path / "c.jsonl", SETTINGS)
    assert "40/40" in capsys.readouterr().err


def test_a_refusal_changes_no_file(fake_module, chain_base, tmp_path):
    output, long = tmp_path / "c.jsonl", [*PROMPTS[:3], "3 " * 5000]
    refused = [
        (fake_module(), replace(SETTINGS, decoder="nope"), TASK, "unknown decoder"),
        (chain_base, replace(SAMPLED, num_prompts=4), long, r"prompts\[3\]: expected at most"),
        (fake_module(), replace(SETTINGS, max_new_tokens=9), [p for p in PROMPTS if kind(p) == 0], "none kept"),
    ]
    for state in ("absent", "begun", "whole"):
        if state == "begun":
            with pytest.raises(KeyboardInterrupt):
                run(fake_module(9), output)
        if state == "whole":
            run(fake_module(), output)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for module, settings, source, message in refused:
            for overwrite in (False, True):
                if state != "absent" and (not overwrite or message == "none kept"):
                    continue
                with pytest.raises(UserError, match=message):
                    run(module, output, settings, source, overwrite=overwrite)
                assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_old_corpus_stays_until_the_new_one_is_complete(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    run(fake_module(), output)
    before = output.read_bytes()
    other = replace(SETTINGS, keep="all")
    with pytest.raises(KeyboardInterrupt):
        run(fake_module(9), output, other, overwrite=True)
    assert output.read_bytes() == before
    module = fake_module()
    run(module, output, other, overwrite=True)  # resumes
    assert [prompts for prompts, *_ in module.calls] == [PROMPTS[8:]]
    assert [row["prompt"] for row in rows_of(output)] == PROMPTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "c.jsonl.manifest.json"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_killed_at_the_end_the_rest_is_done_by_the_next_call(fake_module, tmp_path, monkeypatch, at, overwrite):
    output = tmp_path / "c.jsonl"
    whole = run(fake_module(), tmp_path / "whole.jsonl")
    if overwrite:
        run(fake_module(), output, replace(SETTINGS, keep="all"))
    name = ["sync", "write_json"][at - 1]
    with monkeypatch.context() as patch:

        def killed(path, *_):
            if name == "sync" or path == manifest_path(output):
                raise KeyboardInterrupt
            write_json(path, *_)

        patch.setattr(f"dmaxlit.data.resumable_jsonl.{name}", killed)
        with pytest.raises(KeyboardInterrupt):
            run(fake_module(), output, overwrite=overwrite)
    assert output.exists()
    module = fake_module()
    manifest = run(module, output, overwrite=overwrite)
    assert module.calls == []
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert replace(manifest, seconds=0.0) == replace(whole, seconds=0.0)
    assert not PartialCorpus.record_path(output).exists()


def test_a_manifest_of_another_shape_is_refused(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    run(fake_module(), output)
    content = json.loads(manifest_path(output).read_text())
    manifest_path(output).write_text(json.dumps({**content, "more": 1}))
    with pytest.raises(UserError, match=r"manifest.json: expected the manifest of a corpus"):
        run(fake_module(), output)
    manifest_path(output).write_text(json.dumps({**content, "settings": ["a"]}))
    with pytest.raises(UserError, match=r"manifest.json: expected settings, got a value of type list"):
        run(fake_module(), output)


def test_two_processes_do_not_write_one_corpus(fake_module, tmp_path):
    output = tmp_path / "c.jsonl"
    with held_by_another(output) as other:
        with pytest.raises(UserError, match=f"is being written by process {other.pid} on"):
            run(fake_module(), output)
        assert [path.name for path in tmp_path.iterdir()] == [".c.jsonl.lock"]
    manifest = run(fake_module(), output)
    with held_by_another(output):
        assert run(fake_module(), output) == manifest  # nothing is left to write


def test_a_corpus_that_another_process_has_just_finished_is_taken(fake_module, tmp_path, monkeypatch):
    output = tmp_path / "c.jsonl"
    whole = run(fake_module(), output)
    genuine, answers = distilling.whole_manifest, []

    def late(*args):
        answers.append(genuine(*args))
        return answers[-1] if len(answers) > 1 else None

    monkeypatch.setattr(distilling, "whole_manifest", late)
    module = fake_module()
    assert run(module, output) == whole
    assert module.calls == []
