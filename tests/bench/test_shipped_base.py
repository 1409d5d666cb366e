import json

import pytest

from dmaxlit import UserError
from dmaxlit.bench import CodilaBench, FrontierBench, SelfCorrectionBench, VocabularyBench
from tests.test_configs import FOLDER as CONFIGS

BENCHES = [(SelfCorrectionBench, ""), (FrontierBench, "standard"), (VocabularyBench, ""), (CodilaBench, "")]


@pytest.mark.parametrize(("bench", "folder"), BENCHES)
def test_results_of_other_weights_are_not_mixed_in(tmp_path, bench, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "settings.json").write_text(json.dumps({"weights of base": "others"}))
    with pytest.raises(UserError, match=r"weights of base: expected others, as in the results in .*, got [0-9a-f]{64}"):
        bench(tmp_path, configs=CONFIGS).run()
