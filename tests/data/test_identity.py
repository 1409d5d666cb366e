from dmaxlit.data.identity import difference, prompts_hash
from dmaxlit.tasks.prompts import TemplatedPrompt


def test_difference_names_the_first():
    assert difference({"a": 1}, {"a": 1}) is None
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b was 2, now 3"
    assert difference({"a": {"x": 1, "y": {"z": 2}}}, {"a": {"x": 1, "y": {"z": 3}}}) == "a.y.z was 2, now 3"
    assert difference({"a": {}}, {"a": {"x": [1]}}) == "a.x was None, now [1]"
    assert difference({"a": None}, {"a": {"x": 1}}) == "a was None, now {'x': 1}"


def test_the_hash_tells_a_text_to_continue_from_a_turn_of_the_same_text():
    turn = TemplatedPrompt("a", [{"role": "user", "content": "a"}])
    system = TemplatedPrompt("a", [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}])
    assert len({prompts_hash([prompt]) for prompt in ("a", TemplatedPrompt("a"), turn, system)}) == 4
    assert prompts_hash([TemplatedPrompt("a")]) == prompts_hash([TemplatedPrompt("a")])
