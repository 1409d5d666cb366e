import json

import pytest

from dmaxlit import UserError
from dmaxlit.evaluation.order_folder import FILES, write_report
from dmaxlit.files import read_json


def test_the_folder_holds_table_json_and_picture_and_is_replaced_only_when_asked(report, tmp_path):
    folder = tmp_path / "out"
    table = write_report(folder, [report], {"seed": 3}, overwrite=False)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert (folder / "table.md").read_text(encoding="utf-8") == table + "\n"
    content = read_json(folder / "order.json")
    assert content["settings"] == {"seed": 3}
    assert "NaN" not in json.dumps(content)
    assert content["reports"][0]["blanks"]["rows"][0]["rank"] == {"mean": 0.5, "low": 0.25, "high": 0.75, "prompts": 8}
    assert len(content["reports"][0]["rows"]) == 12
    with pytest.raises(UserError, match="expected a new folder, or --overwrite"):
        write_report(folder, [report], {}, overwrite=False)
    write_report(folder, [report], {"seed": 4}, overwrite=True)
    assert read_json(folder / "order.json")["settings"] == {"seed": 4}


def test_other_folders_and_files_are_left_alone(report, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"expected a folder of reports alone, got .* with 'notes.txt' in it"):
        write_report(tmp_path, [report], {}, overwrite=True)
    with pytest.raises(UserError, match="output: expected a folder, got the file"):
        write_report(tmp_path / "notes.txt", [report], {}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
