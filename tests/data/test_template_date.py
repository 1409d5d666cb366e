import json
from datetime import datetime, timedelta

import lightning as L
import pytest
import torch

from dmaxlit.callbacks import RunCheckpoint
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.encoding import encode_pair
from dmaxlit.data.template_date import TemplateDate
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask

# Writes the day of the month as digits, which the tokenizer knows.
DATED = "{{ strftime_now('%d') | list | join(' ') }} {% for m in messages %}{{ m['content'] }} {% endfor %}"
FIRST = datetime(2026, 3, 14, 23, 59)


def dated_tokenizer():
    tokenizer = ChainTask.tokenizer()
    tokenizer.chat_template = DATED
    return tokenizer


def day_of(ids):
    return int("".join(ChainTask.tokenizer().convert_ids_to_tokens(ids[:2])))


@pytest.fixture
def clock(monkeypatch):
    class Clock(datetime):
        moment = FIRST

        @classmethod
        def now(cls, tz=None):
            return cls.moment

    monkeypatch.setattr("dmaxlit.data.template_date.datetime", Clock)
    return Clock


def test_the_first_call_decides_on_the_moment_and_the_tokenizer_stays_as_it_was(clock):
    tokenizer, date = dated_tokenizer(), TemplateDate()
    for _ in range(2):
        assert day_of(encode_pair(date.apply(tokenizer, None), "1 +2 ?", "so", 4).ids) == 14
        clock.moment += timedelta(days=1)
    assert tokenizer.chat_template == DATED
    plain = ChainTask.tokenizer()
    assert TemplateDate().apply(plain, None) is plain


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d %b %Y, %-d.%-m.%y %H:%M:%S %p %A %j %% %%d') }}{{ x }}",
        "\n  {% if strftime_now is defined %}\n{{ strftime_now('%B %Y') }}\n  {% endif %}\n end\n",
        "{% macro today() %}[{{ strftime_now('%F %T') }}]{% endmacro %}{{ today() }}{{ messages[0]['content'] }}",
    ],
)
def test_what_the_template_writes_differs_in_its_date_alone(template, clock, monkeypatch):
    tokenizer = ChainTask.tokenizer()
    tokenizer.chat_template = template
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", clock)
    turns = [{"role": "user", "content": "1"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False)
    dated = TemplateDate().apply(tokenizer, None)
    clock.moment += timedelta(days=400, hours=5)
    assert dated.apply_chat_template(turns, tokenize=False) == expected
    assert tokenizer.apply_chat_template(turns, tokenize=False) != expected
    tokenizer.chat_template = {"default": template}
    assert TemplateDate().apply(tokenizer, None).chat_template["default"].endswith(template)


@pytest.mark.parametrize(
    ("template", "is_same"),
    [
        ("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}", True),
        ('{%for m in messages%}{{ strftime_now( "%-d %%S" ) }}{%endfor%}', True),
        ("{{ strftime_now('%H') }}", False),
        ("{% set f = '%H' %}{{ strftime_now('%d') }}{{ strftime_now(f) }}", False),
        ("{% set now = strftime_now %}{{ now('%H') }}", False),
    ],
)
def test_a_template_that_writes_the_day_is_the_same_all_day(template, is_same, clock):
    tokenizer = ChainTask.tokenizer()
    tokenizer.chat_template = template
    texts = []
    for _ in range(2):
        texts.append(TemplateDate().apply(tokenizer, None).chat_template)
        clock.moment -= timedelta(hours=3)
    assert (texts[0] == texts[1]) is is_same


def test_the_moment_of_a_checkpoint_is_taken_only_if_the_template_writes_one(clock):
    date = TemplateDate()
    assert date.state_dict() == {}
    assert not date.restore({"moment": FIRST.isoformat()})
    date.apply(dated_tokenizer(), None)
    assert not date.restore({})
    assert not date.restore(date.state_dict())
    assert date.restore({"moment": "2026-03-13T08:00:00"})
    assert date.moment == datetime(2026, 3, 13, 8)


@pytest.mark.parametrize("value", ["yesterday", 3, None, [1]])
def test_a_state_that_is_no_moment_is_refused(value, clock):
    date = TemplateDate()
    date.apply(dated_tokenizer(), None)
    with pytest.raises(UserError, match=r"^checkpoint: moment: expected a date and time, got (a value of type|None)"):
        date.restore({"moment": value})


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*GPU available")
def test_a_run_goes_on_tomorrow_with_the_rows_of_its_first_day(fake_module, clock, tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps({"prompt": f"{n} +2 ?", "response": "so"}) + "\n" for n in range(4)))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    last = tmp_path / "checkpoints" / "last.ckpt"

    def fit(max_steps):
        module, callback = fake_module(), RunCheckpoint(every_n_steps=1)
        module.tokenizer = dated_tokenizer()
        callback.folder, callback.automatic = str(last.parent), True  # as the command line has it: others are refused
        data = SelfDistilledDataModule(corpus=str(corpus), batch_size=2, seed=1)
        limits = {"max_steps": max_steps, "accelerator": "cpu", "default_root_dir": tmp_path}
        trainer = L.Trainer(callbacks=callback, **limits, **quiet)
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None)
        return [day_of(batch["ids"][0].tolist()) for batch in data.train_dataloader()]

    for steps in (1, 2, 3):  # the second run also saves the date of the first
        assert fit(steps) == [14, 14]
        clock.moment += timedelta(days=1)
    checkpoint = torch.load(last, weights_only=True)
    assert (checkpoint["global_step"], checkpoint["SelfDistilledDataModule"]) == (3, {"moment": FIRST.isoformat()})
