from dataclasses import dataclass
from pathlib import Path

import pytest

from dmaxlit import UserError
from dmaxlit.bench.output_folder import holds_output
from tests.lock_holder import held_by_another


@dataclass(frozen=True)
class Bench:
    output: Path

    @holds_output
    def run(self):
        """Return the table."""
        return "table"


def test_a_benchmark_does_not_run_while_another_process_writes_to_its_folder(tmp_path):
    with held_by_another(tmp_path / "out", "exclusive_folder"), pytest.raises(UserError, match=r"output: .*by process"):
        Bench(tmp_path / "out").run()
    assert Bench(tmp_path / "out").run() == "table"
    assert Bench.run.__doc__ == "Return the table."
