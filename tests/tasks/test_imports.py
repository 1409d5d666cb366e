"""Tasks are needed by the tokenizer and by `dmaxlit list`; importing them loads no trainer and no model library."""

import subprocess
import sys

HEAVY = ("lightning", "transformers", "tokenizers", "datasets")


def test_importing_tasks_loads_neither_lightning_nor_transformers():
    code = f"import sys, dmaxlit.tasks; print(*(name for name in {HEAVY} if name in sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == []
