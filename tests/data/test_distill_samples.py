import json
from dataclasses import asdict, replace

import pytest
import torch

import dmaxlit
from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.errors import UserError
from tests.data.distilling import SETTINGS, TASK, run


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
