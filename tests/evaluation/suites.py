"""Small suites, and what they write."""

import json

from lightning.fabric import Fabric

from dmaxlit import DMaxModule
from dmaxlit.evaluation.curve_figure import PICTURES
from dmaxlit.evaluation.decoder_entries import decoder_entries
from dmaxlit.evaluation.suite import Suite
from dmaxlit.evaluation.task_entries import task_entries
from dmaxlit.ranks import Ranks
from tests.conftest import make_denoiser

TASK = {"chain": {"operations": 3}}
SPD = [{"name": "spd", "options": {"tau_dec": [0.5, 0.0]}}]
FILES = ["one_token.jsonl", "spd-tau_dec=0.0.jsonl", "spd-tau_dec=0.5.jsonl"]


def tiny_module():
    return DMaxModule(make_denoiser(sharpen=6.0))


def one_process():
    return Ranks(Fabric(accelerator="cpu", devices=1))


def suite(tasks=("chain",), options=TASK, decoders=SPD, **settings):
    settings = {"num_prompts": 5, "max_new_tokens": 12, "batch_size": 2, **settings}
    return Suite(task_entries(list(tasks), options), decoder_entries(decoders), **settings)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    """Return the files of a run without the times in them, which differ from run to run."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in PICTURES and path.name not in ("table.md", "curve.csv", "curve.json"):
            files[str(path.relative_to(folder))] = path.read_bytes()
    record = json.loads(files.pop("record.json"))
    for result in record["results"]:
        result["timing"] = None
    record["device"]["processes"] = None
    del record["environments"]
    files["settings.json"] = json.loads(files["settings.json"])
    files["settings.json"].pop("environments", None)
    for name in [name for name in files if name.endswith(".manifest.json")]:
        files[name] = json.loads(files[name])["settings"]
    return files | {"record.json": record}


def run(module, ranks, output, progress=False, overwrite=False, **settings):
    return suite(**settings).run(ranks, lambda: module, "builtin:chain-base", output, overwrite, progress)
