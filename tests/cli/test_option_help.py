import pytest
import yaml

OWN_TASK = '''
from dmaxlit.tasks import Example, Task

class {name}(Task):
    """Sums of two numbers.

    Args:
        top: Largest number.
    """

    max_new_tokens = 8

    def __init__(self, top: int = 5) -> None:
        self.top = top

    def examples(self, split, n):
        return [Example("1 +1 ?", "2", bool, "so")] * n
'''


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fit --data.task.help chain", "--data.task.difficulty"),
        ("validate --data.task.help=chain", "--data.task.difficulty"),
        ("plan --data.task chain --data.task.help", "--data.task.difficulty"),
        ("predict --decoder.help spd", "--decoder.tau_dec"),
        ("generate --decoder.help psd", "Drafts, from 1 to 256"),
        ("generate --task.help jsonl --model nowhere", "--task.match"),
        ("distill --decoder.help dmaxlit.decoding.SPDDecoder", "--decoder.tau_dec"),
    ],
)
def test_the_options_of_a_decoder_or_task_are_explained(dmax, line, expected):
    ended = dmax(line)
    assert (ended.status, ended.err) == (0, "")
    assert expected in ended.out


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("generate --decoder.help nope", "unknown decoder 'nope'; known: "),
        ("fit --data.task.help", "data.task.help: expected a name; known: asdiv, chain, "),
        ("list --decoder.help spd", "unknown setting"),
    ],
)
def test_help_for_what_does_not_exist_is_refused(dmax, line, refusal):
    assert dmax(line).refusal.startswith(refusal)


@pytest.mark.parametrize("flags", ["--data.task {} --data.task.top 9", "--data.task={} --data.task.init_args.top=9"])
def test_a_task_given_by_import_path_takes_options(dmax, base, tmp_path, flags):
    (tmp_path / "own_task_help.py").write_text(OWN_TASK.format(name="AddTask"))
    settings = yaml.safe_load(base.read_text())
    del settings["data"]["task"], settings["data"]["task_options"]
    base.write_text(yaml.safe_dump(settings))
    ended = dmax(f"fit --config {base} {flags.format('own_task_help.AddTask')} --print_config")
    assert ended.status == 0, ended.err
    data = yaml.safe_load(ended.out)["data"]["init_args"]
    assert data["task"] == {"class_path": "own_task_help.AddTask", "init_args": {"top": 9}}
    assert not data["task_options"]
