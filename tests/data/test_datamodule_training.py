"""The data module under a trainer: order, distilling first, dry runs, ranks."""

import itertools
import json
import os
from dataclasses import replace

import lightning as L
import pytest

from dmaxlit.data import DistillSettings, SelfDistilledDataModule
from dmaxlit.data.distill import distill
from dmaxlit.data.encoding import encode_prompt
from dmaxlit.data.messages import Conversation
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.tasks import ChainTask, TooFewExamplesError, task
from dmaxlit.tokens import Role
from tests.data.test_datamodule import bound

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
SETTINGS = DistillSettings(num_prompts=20, batch_size=2)


class WithTools(ChainTask):
    """The third prompt is a conversation in which a tool has answered."""

    def examples(self, split, n):
        examples = super().examples(split, n)
        turns = [{"role": "user", "content": "3 ?"}, {"role": "assistant", "content": "so"}]
        turns += [{"role": "tool", "content": "3 +1 ?"}]
        changed = {2: Conversation(turns)} if split == "train" else {}
        return [replace(example, prompt=changed.get(i, example.prompt)) for i, example in enumerate(examples)]


class LongPrompt(ChainTask):
    """The validation prompts do not fit the context of the module."""

    def examples(self, split, n):
        examples = super().examples(split, n)
        return [replace(one, prompt="+1 " * 200) for one in examples] if split == "val" else examples


class Unnamed(ChainTask):
    """A task that is not registered."""


class ThreePrompts(ChainTask):
    """The splits have three prompts each, which only drawing them shows."""

    def examples(self, split, n):
        if n > 3:
            raise TooFewExamplesError(3, f"{split} prompts", n)
        return super().examples(split, n)


def fit(module, folder, encoding=None, task="chain", num_val=3, **options):
    limits = {"max_epochs": 2} | options.pop("limits", {})
    data = SelfDistilledDataModule(task=task, batch_size=4, num_val=num_val, seed=1, **options)
    if encoding is not None:
        data.bind(*encoding)
    L.Trainer(default_root_dir=folder, num_sanity_val_steps=0, **QUIET, **limits).fit(module, data)
    return data


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*GPU available")
class TestUnderATrainer:
    def test_epochs_differ_and_follow_the_seed_alone(self, fake_module, tmp_path):
        module = fake_module()
        fit(module, tmp_path, num_train=10)
        alone = bound(task="chain", num_train=10, batch_size=4, seed=1).train_dataloader()
        for epoch in (0, 1):
            alone.sampler.set_epoch(epoch)
            expected = [(epoch, batch["index"].tolist()) for batch in alone]
            assert [seen for seen in module.seen if seen[0] == epoch] == expected
        assert [seen for seen in module.seen if seen[0] == "val"] == [
            ("val", [e.prompt for e in task("chain").examples("val", 3)])
        ] * 2

    def test_overfit_batches_repeats_the_first_batches_of_the_corpus(self, fake_module, tmp_path):
        module = fake_module()
        fit(module, tmp_path, num_train=20, limits={"overfit_batches": 2})
        epochs = [[batch for epoch, batch in module.seen if epoch == number] for number in (0, 1)]
        assert epochs == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2

    def test_a_missing_corpus_is_distilled_first_and_used_the_next_time(self, fake_module, tmp_path):
        corpus, module = tmp_path / "deep" / "corpus.jsonl", fake_module()
        module.train()
        fit(module, tmp_path, corpus=str(corpus), distill=SETTINGS)
        lines = corpus.read_text().splitlines()
        assert 0 < len(lines) < 20
        assert sorted(index for epoch, batch in module.seen if epoch == 0 for index in batch) == list(range(len(lines)))
        assert {modes for modes in module.modes} == {(False, False)}
        assert module.backbone.model.training
        again = fake_module()
        fit(again, tmp_path, corpus=str(corpus), distill=SETTINGS)
        assert again.calls == []
        assert again.seen == module.seen

    def test_a_corpus_of_other_settings_is_used_with_a_warning(self, fake_module, tmp_path):
        corpus = str(tmp_path / "corpus.jsonl")
        fit(fake_module(), tmp_path, corpus=corpus, distill=SETTINGS)
        with pytest.warns(
            UserWarning, match="used as it is, though made with other settings: num_prompts was 20, now 40"
        ):
            fit(fake_module(), tmp_path, corpus=corpus, distill=DistillSettings(num_prompts=40))

    def test_a_corpus_of_other_stop_texts_is_used_with_a_warning(self, fake_module, tmp_path, monkeypatch):
        for name, stop, was, now in (("a", ["x"], r"None", r"\['x'\]"), ("b", [], r"\['x'\]", "None")):
            corpus = str(tmp_path / f"{name}.jsonl")
            monkeypatch.setattr(ChainTask, "stop", [] if stop else ["x"])
            fit(fake_module(), tmp_path, corpus=corpus, distill=SETTINGS)
            monkeypatch.setattr(ChainTask, "stop", stop)
            with pytest.warns(DMaxWarning, match=f"made with other settings: stop was {was}, now {now}"):
                fit(fake_module(), tmp_path, corpus=corpus, distill=SETTINGS)

    def test_prompts_with_turns_of_tools_are_refused_before_they_are_answered(self, fake_module, tmp_path):
        module, options = fake_module(), {"task": WithTools(), "corpus": str(tmp_path / "c.jsonl"), "distill": SETTINGS}
        refusal = "distill: prompt 3 of the task has turns of tools, which tool_turns refuses .turn 3 has the role"
        with pytest.raises(UserError, match=refusal):
            fit(module, tmp_path, **options)
        assert module.calls == []
        assert list(tmp_path.iterdir()) == []
        fit(module, tmp_path, tool_turns="template", **options)
        assert module.calls != []

    @pytest.mark.parametrize("is_bound", [False, True])
    def test_a_corpus_is_distilled_with_the_template_that_is_trained_with(self, fake_module, tmp_path, is_bound):
        (tmp_path / "t.jinja").write_text("{% if short %}{{ messages[0].content }} {% else %}1 {% endif %}")
        corpus, module, used = tmp_path / "corpus.jsonl", fake_module(), []
        answer = module.answer
        module.answer = lambda prompt, key: used.append(encode_prompt(module.tokenizer, prompt)) or answer(prompt, key)
        template = {"chat_template": str(tmp_path / "t.jinja"), "template_options": {"short": True}}
        tokenizer = ChainTask.tokenizer()
        encoding = (tokenizer, 32, 128) if is_bound else None
        data = fit(module, tmp_path, encoding, corpus=str(corpus), distill=SETTINGS, **template)
        prompts = [example.prompt for example in task("chain").examples("train", 20)]
        assert sorted(used) == sorted(tokenizer(f"{prompt} ")["input_ids"] for prompt in prompts)
        rows = {}
        for batch in data.train_dataloader():
            for ids, roles in zip(batch["ids"], batch["roles"], strict=True):
                rows[tuple(ids[roles == Role.PROMPT].tolist())] = True
        assert rows.keys() <= {tuple(ids) for ids in used}
        with pytest.warns(DMaxWarning, match="made with other settings: chat_template was '[0-9a-f]{64}', now None"):
            fit(fake_module(), tmp_path, corpus=str(corpus), distill=SETTINGS)

    def test_a_dry_run_leaves_nothing_behind(self, fake_module, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        module = fake_module()
        data = fit(module, tmp_path, corpus=str(tmp_path / "c.jsonl"), distill=SETTINGS, limits={"fast_dev_run": True})
        ((prompts, *_),) = module.calls
        assert len(prompts) == data.batch_size == 4
        assert [len(batch) for epoch, batch in module.seen if epoch == 0] == [4]
        assert os.listdir(tmp_path) == []

    def test_a_run_after_a_dry_run_learns_the_whole_corpus(self, fake_module, tmp_path):
        data = SelfDistilledDataModule(
            str(tmp_path / "c.jsonl"), "chain", batch_size=4, num_val=3, distill=replace(SETTINGS, keep="all")
        )
        for limits, number in (({"fast_dev_run": True}, 4), ({"max_epochs": 1}, 20)):
            module = fake_module()
            L.Trainer(default_root_dir=tmp_path, num_sanity_val_steps=0, **QUIET, **limits).fit(module, data)
            assert sum(len(batch) for epoch, batch in module.seen if epoch == 0) == number

    @pytest.mark.parametrize(
        ("options", "limits", "refusal"),
        [
            ({"max_length": 16}, {}, "max_length: expected at least one block of 32, got 16"),
            ({"max_tokens": 16}, {}, "max_tokens: expected at least one block of 32, got 16"),
            ({"max_tokens": 64}, {"overfit_batches": 1}, "max_tokens: expected none with overfit_batches"),
            ({"streaming": True}, {"val_check_interval": 0.5}, "trainer.val_check_interval: expected a number of"),
            ({"columns": {"prompt": "query"}}, {}, "columns: expected none for a corpus that is distilled here, got"),
            ({"columns": {"prompt": "query"}}, {"fast_dev_run": True}, "columns: expected none for a corpus that is"),
            ({"task": LongPrompt()}, {}, r"validation prompt 1 \(.*\): is too long"),
        ],
    )
    def test_what_cannot_work_is_refused_before_a_corpus_is_distilled(
        self, fake_module, tmp_path, monkeypatch, options, limits, refusal
    ):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        module, corpus = fake_module(), tmp_path / "corpus" / "c.jsonl"
        with pytest.raises(UserError, match=f"^{refusal}"):
            fit(module, tmp_path, corpus=str(corpus), distill=SETTINGS, limits=limits, **options)
        assert module.calls == []
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("limits", [{}, {"fast_dev_run": True}])
    @pytest.mark.parametrize("drawn", [False, True])
    def test_all_prompts_are_answered_where_nobody_says_how_many(self, fake_module, tmp_path, limits, drawn):
        rows = [{"prompt": example.prompt, "answer": "1"} for example in task("chain").examples("train", 3)]
        (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"corpus": str(tmp_path / "c.jsonl"), "distill": DistillSettings(keep="all", max_new_tokens=8)}
        module = fake_module()
        for _ in range(2):  # also where the corpus is there
            few = ThreePrompts() if drawn else task("jsonl", train=str(tmp_path / "q.jsonl"))
            fit(module, tmp_path, task=few, num_val=0, limits=limits, **options)
        assert [len(prompts) for prompts, *_ in module.calls] == [3] * (2 if limits else 1)

    def test_the_corpus_of_a_task_without_a_name_is_used_again_without_a_warning(self, fake_module, tmp_path):
        for _ in range(2):
            fit(fake_module(), tmp_path, corpus=str(tmp_path / "c.jsonl"), task=Unnamed(), distill=SETTINGS)

    def test_files_of_the_task_are_not_overwritten(self, fake_module, tmp_path):
        rows = "".join(f'{{"prompt": "{number} ?", "answer": "1"}}\n' for number in range(30))
        for name in ("questions/q.jsonl", "c.held_out.jsonl"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(rows)
        files = {"train": str(tmp_path / "questions"), "test": str(tmp_path / "c.held_out.jsonl")}
        options = {"task": "jsonl", "task_options": files, "num_val": 0, "distill": replace(SETTINGS, held_out=0.3)}
        with pytest.raises(
            UserError, match=r"distill\.held_out: expected another file than --data\.task_options\.test"
        ):
            fit(fake_module(), tmp_path, corpus=str(tmp_path / "c.jsonl"), **options)
        with pytest.raises(
            UserError, match=r"corpus: expected a file that --data\.task_options\.train .* does not read"
        ):
            fit(fake_module(), tmp_path, corpus=str(tmp_path / "questions" / "c.jsonl"), **options)

    def test_a_dry_run_keeps_what_filters_would_drop(self, fake_module, tmp_path):
        settings = replace(SETTINGS, held_out=0.999, min_length=100, duplicates="drop")
        module = fake_module()
        fit(module, tmp_path, corpus=str(tmp_path / "c.jsonl"), distill=settings, limits={"fast_dev_run": True})
        assert [len(batch) for epoch, batch in module.seen if epoch == 0] == [4]

    def test_a_dry_run_uses_a_corpus_that_is_there(self, fake_module, tmp_path):
        corpus, module = str(tmp_path / "c.jsonl"), fake_module()
        fit(fake_module(), tmp_path, corpus=corpus, distill=SETTINGS)
        fit(module, tmp_path, corpus=corpus, distill=SETTINGS, limits={"fast_dev_run": True})
        assert module.calls == []
        assert len(module.seen) == 2

    def test_evaluation_distils_nothing(self, fake_module, tmp_path):
        module = fake_module()
        data = SelfDistilledDataModule(task="chain", corpus=str(tmp_path / "c.jsonl"), num_val=3, distill=SETTINGS)
        L.Trainer(default_root_dir=tmp_path, **QUIET).validate(module, data, verbose=False)
        assert module.calls == []
        assert len(module.seen) == 1


RANK = """
import json, sys
import lightning as L
from dmaxlit.data import DistillSettings, SelfDistilledDataModule
from tests.data.fake_model import FakeModule

class Stop(L.Callback):
    def on_train_end(self, trainer, module):
        path = f"{sys.argv[1]}/{trainer.global_rank}.json"
        json.dump(module.seen if len(sys.argv) == 2 else module.calls[0][0], open(path, "w"))

module = FakeModule()
corpus = {"num_train": 10}
if len(sys.argv) > 2:
    corpus = {"corpus": sys.argv[2], "distill": DistillSettings(num_prompts=12, batch_size=2, keep="all")}
data = SelfDistilledDataModule(task="chain", batch_size=2, num_val=3, eval_batch_size=1, seed=1, **corpus)
L.Trainer(max_epochs=2, devices=2, strategy="ddp_fork", callbacks=Stop(), num_sanity_val_steps=0, logger=False,
          accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False).fit(module, data)
"""


@pytest.mark.slow
def test_two_processes_share_the_batches_of_one(processes, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    codes = processes.run([tmp_path], tmp_path / "log", module="rank", folder=tmp_path)
    assert codes == [0], (tmp_path / "log").read_text()
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = bound(task="chain", num_train=10, batch_size=4, seed=1).train_dataloader()
    for epoch in (0, 1):
        alone.sampler.set_epoch(epoch)
        expected = [sorted(batch["index"].tolist()) for batch in alone]
        shares = [[batch for when, batch in rank if when == epoch] for rank in ranks]
        assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == expected
        assert not set(itertools.chain(*shares[0])) & set(itertools.chain(*shares[1]))
    prompts = [prompt for rank in ranks for when, batch in rank if when == "val" for prompt in batch]
    assert sorted(prompts) == sorted([e.prompt for e in task("chain").examples("val", 3)] * 2)


@pytest.mark.slow
def test_two_processes_distil_together_what_one_distils(fake_module, processes, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    codes = processes.run([tmp_path, tmp_path / "two.jsonl"], tmp_path / "log", module="rank", folder=tmp_path)
    assert codes == [0], (tmp_path / "log").read_text()
    shares = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]
    distill(fake_module(), task("chain"), tmp_path / "one.jsonl", DistillSettings(12, batch_size=2, keep="all"))
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
