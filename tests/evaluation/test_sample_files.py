from dmaxlit.evaluation.sample_files import SampleFile, read_rows


def test_answers_with_half_a_character_are_utf_8_and_come_back(tmp_path):
    rows = {1: {"index": 1, "id": "é"}, 0: {"index": 0, "id": "é\ud83d"}}
    file = SampleFile(tmp_path / "a.jsonl", {"decoder": "spd"})
    file.finish(rows, {"seconds": 1.0})
    assert len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == 2
    assert file.read() == [rows[0], rows[1]]


def test_files_of_earlier_versions_which_held_half_a_character_as_it_is_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"id": "\ud83d"}\n'.encode("utf-8", "surrogatepass"))
    assert read_rows(tmp_path / "a.jsonl") == [{"id": "\ud83d"}]
