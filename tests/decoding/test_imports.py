import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["decoding", "metrics"])
def test_import_loads_neither_the_trainer_nor_the_command_line(name):
    code = f"import sys, dmaxlit.{name}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert f"dmaxlit.{name}" in modules
    assert not {"lightning", "jsonargparse", "dmaxlit.backbone", "dmaxlit.engine", "dmaxlit.cli"} & set(modules)


def test_decoders_load_transformers_only_if_the_data_types_do():
    code = "import sys, dmaxlit.tokens; old = set(sys.modules); import dmaxlit.decoding; print(*set(sys.modules) - old)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "dmaxlit.decoding.spd" in modules
    assert not [name for name in modules if name.split(".")[0] in {"transformers", "tokenizers", "huggingface_hub"}]
