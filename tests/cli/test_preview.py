import json
import re
from io import StringIO

import pytest
import torch
import yaml
from rich.console import Console

import dmaxlit
from dmaxlit.backbone.training_forward import TrainingForward
from dmaxlit.cli.view_lines import print_view
from dmaxlit.noise import NOISE, View
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, Role, SoftTokens, SpecialTokens
from tests.cli.test_terminal import OSC

PAIRS = [("7 +1 *3 ?", "7 +1 . 8 *3 . answer is 4 ."), ("3 ?", "3 .")]


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS))
    return path.name


def lines_of(ended):
    assert ended.status == 0, ended.err
    return ended.out.splitlines()


def clean_of(module, rows):
    """Return rows as a clean batch, encoded here by words."""
    eos, length = module.special.eos_id, 32
    ids = torch.full((len(rows), length), eos)
    roles = torch.full((len(rows), length), int(Role.PAD))
    for row, (prompt, response) in enumerate(rows):
        tokens = [module.tokenizer.encode(text, add_special_tokens=False) for text in (prompt, response)]
        ids[row, : sum(map(len, tokens))] = torch.tensor(tokens[0] + tokens[1])
        roles[row, : len(tokens[0])] = int(Role.PROMPT)
        whole = -(-(sum(map(len, tokens)) + 1) // 16) * 16
        roles[row, len(tokens[0]) : whole] = int(Role.RESPONSE)
    return CleanBatch(ids, roles, 16, module.special)


def words(line):
    return line.replace("{", "").replace("}", "").split()


def test_an_on_policy_strategy_is_shown_with_the_model_s_own_predictions(dmax, tiny, texts):
    flags = "--noise on_policy --noise.level 0.5 --noise.rollout argmax --seed 3 --device cpu"
    lines = lines_of(dmax(f"preview {texts} --model {tiny} {flags}"))
    module = dmaxlit.load(tiny, probe=False)
    clean = clean_of(module, PAIRS)
    views = NOISE.get("on_policy")(0.5, rollout="argmax").views(clean, RowGenerator(3, [(0, 0), (0, 1)]))
    masked = next(views)
    with torch.no_grad():
        logits = module.backbone.logits(TrainingForward(module.backbone, clean, doubled=True)(masked.ids, None))
    predicted = torch.where(masked.is_masked, logits.argmax(-1), clean.ids)
    for row, (prompt, _) in enumerate(PAIRS):
        begin = lines.index(f"texts.jsonl, row {row + 1}")
        count, total = int(masked.is_masked[row].sum()), int(clean.response[row].sum())
        wrong = int((predicted != clean.ids)[row].sum())
        assert lines[begin + 2] == f"masked: level 0.5, {count} masked, 0 substituted, {total} supervised of {total}"
        assert lines[begin + 4] == f"predicted: level 0.5, 0 masked, {wrong} substituted, {total} supervised of {total}"
        shown = words(lines[begin + 3])
        there = clean.roles[row] != Role.PAD
        assert [word == "\u2591" for word in shown] == masked.is_masked[row][there].tolist()
        expected = []
        for token, before, filled in zip(
            *(tensor[row][there].tolist() for tensor in (predicted, clean.ids, masked.is_masked)), strict=True
        ):
            mark = "^" if token != before else "=" if filled else ""
            expected.append(mark + module.tokenizer.decode([token]))
        assert words(lines[begin + 5]) == expected
        assert lines[begin + 3].startswith(f"{prompt} {{")
    assert lines[-1].startswith("OnPolicyNoise(")
    assert lines[-1].endswith("seed 3, step 0")


def test_the_configuration_of_a_run_is_shown_and_its_options_are_flags(dmax, base, texts, tmp_path):
    ended = dmax(f"preview --config {base} --num_rows 1 --model.noise complementary --model.noise.per block")
    lines = lines_of(ended)
    assert sum(line.startswith(("masked: ", "complement: ")) for line in lines) == 2
    assert "per='block'" in lines[-1]
    assert not (tmp_path / "runs").exists()
    both = dmax(f"preview {texts} --config {base} --num_rows 9")
    assert [line for line in lines_of(both) if ", row " in line] == ["texts.jsonl, row 1", "texts.jsonl, row 2"]


@pytest.mark.parametrize("flags", ["--print_config {}", "{} --print_config"])
def test_a_text_after_a_flag_without_a_value_is_a_text(dmax, tiny, texts, flags):
    ended = dmax(f"preview --model {tiny} {flags.format(texts)}")
    assert ended.status == 0, ended.err
    assert yaml.safe_load(ended.out)["data"]["init_args"]["corpus"] == [texts]


def test_the_level_of_a_curriculum_is_that_of_the_step(dmax, tiny, texts):
    level = '{"class_path": "LevelCurriculum", "init_args": {"stages": {0: 0.0, 10: 1.0}}}'
    command = ["preview", texts, "--model", str(tiny), "--noise", "masked", f"--noise.level={level}", "--num_rows", "1"]
    for step, counts in [
        (0, r"masked: level 0, 0 masked"),
        (10, r"masked: level 1, (\d+) masked, .* \1 supervised of \1$"),
    ]:
        assert any(re.match(counts, line) for line in lines_of(dmax([*command, "--step", str(step)])))


def test_blocks_are_as_long_as_those_of_the_step(dmax, tiny, texts):
    warmup = ["--trainer.callbacks+=BlockWarmup", "--trainer.callbacks.stages={0: 1, 10: 16}"]
    command = f"preview {texts} --model {tiny} --noise masked --noise.per block --num_rows 1".split()
    alone, *shown = (
        lines_of(dmax([*command, *flags])) for flags in ([], [*warmup, "--step=10"], [*warmup, "--step=9"])
    )
    level = re.compile(r"masked: level [\d.]+, ")
    assert any(level.match(line) for line in alone), "the response is in one block"
    assert shown[0][:-1] == alone[:-1]
    assert any(re.match(r"masked: level [\d.]+ to [\d.]+, ", line) for line in shown[1])
    refusal = dmax([*command, warmup[0], "--trainer.callbacks.stages={0: 3, 10: 16}"]).refusal
    assert refusal == "stages: expected divisors of the model's block length 16 that end with it, got [3, 16]"


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("{texts}", "backbone: expected either pretrained or config, got neither"),
        ("--model {tiny}", "texts: expected a corpus, or --config"),
        ("gone.jsonl --model {tiny}", "corpus: no such file: 'gone.jsonl'"),
        ("{texts} --model {tiny} --noise nope", "unknown noise strategy 'nope'; known: complementary, "),
        ("{texts} --model {tiny} --noise.level 3", "level: expected a number in [0, 1], got 3"),
        ("{texts} --model {tiny} --num_rows 0", "num_rows: expected at least 1, got 0"),
        ("{texts} --model {tiny} --num_rows two", "num_rows: invalid int value: 'two'"),
        ("{texts} --model {tiny} --step=-1", "step: expected at least 0, got -1"),
        ("{texts} --model {tiny} --device nope", "device: expected"),
        ("{texts} --model {tiny} --ckpt_path x.ckpt", "ckpt_path: "),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, tiny, texts, flags, refusal):
    assert dmax(f"preview {flags.format(tiny=tiny, texts=texts)}").refusal.startswith(refusal)


def test_the_options_of_a_strategy_are_explained_without_texts(dmax):
    ended = dmax("preview --noise.help on_policy")
    assert ended.status == 0, ended.err
    assert "masked_weight" in ended.out


def test_a_text_cannot_control_the_terminal(dmax, tiny, tmp_path):
    name = f"{OSC}.jsonl"
    (tmp_path / name).write_text(json.dumps({"prompt": "3 ?", "response": "3"}) + "\n")
    ended = dmax(["preview", name, "--model", str(tiny)])
    assert r"\x1b]0;owned\x07.jsonl, row 1" in ended.out
    assert "\x1b" not in ended.out + ended.err


class _Words:
    def decode(self, ids):
        return ["a", "b", "\x1b[1m", "[mask]"][ids[0]]


def test_every_kind_of_position_has_a_mark_and_a_style():
    clean = CleanBatch(
        torch.tensor([[0, 1, 1, 1, 2, 1, 0, 0]]), torch.tensor([[1, 2, 2, 2, 2, 2, 3, 0]]), 4, SpecialTokens(3, 0, 0, 4)
    )
    where = torch.tensor([[0, 0, 0, 0, 0, 1, 0, 0]]).bool()
    view = View(
        torch.tensor([[0, 3, 0, 1, 2, 0, 0, 0]]),
        torch.tensor([[0, 1, 1, 0, 0, 0, 1, 0]]).bool(),
        "v",
        is_masked=torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0]]).bool(),
        model_filled=torch.tensor([[0, 0, 1, 1, 0, 1, 0, 0]]).bool(),
        level=torch.full((1, 8), 0.25),
        soft=SoftTokens(torch.zeros(1, 8, 1).long(), torch.ones(1, 8, 1), where),
    )
    plain = Console(file=StringIO(), width=200)
    print_view(plain, _Words(), clean, view, 0)
    counts, line = plain.file.getvalue().splitlines()
    assert counts == "v: level 0.25, 1 masked, 1 substituted, 1 soft, 2 supervised of 5"
    assert line == r"a {" + "\u2591" + r" ^a} =b \x1b[1m ~a a"
    coloured = Console(file=StringIO(), width=200, force_terminal=True, color_system="standard", _environ={})
    print_view(coloured, _Words(), clean, view, 0)
    styles = re.findall(r"\x1b\[([0-9;]+)m(\u2591|\^a|=b|~a)\x1b", coloured.file.getvalue())
    assert len({style.removeprefix("4;") for style, _ in styles}) == 4
