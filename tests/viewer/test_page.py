import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest

from dmaxlit import UserError
from dmaxlit.viewer import Panel, page, write_page
from tests.viewer.recordings import synthetic, texts_of

HOSTILE = "</script><script>alert(1)</script><!--{{style}}&lt;\x1b"


def hostile_page():
    recording = replace(synthetic(6, 8, 4), prompt=HOSTILE)
    return page([Panel(HOSTILE, {0: recording}, dict.fromkeys(texts_of(recording), HOSTILE))], HOSTILE)


def data_of(text):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def test_texts_are_data_and_never_markup():
    text = hostile_page()
    assert text.count("<script") == text.count("</script>") == 2
    assert "alert(1)</script" not in text
    data = data_of(text)
    shown = HOSTILE.replace("\x1b", "␛")
    assert data["traces"][0]["label"] == data["traces"][0]["rows"]["0"]["prompt"] == shown
    assert set(data["tokens"]) == {"", shown}


def test_the_policy_allows_the_page_s_own_program_and_style_only():
    text = hostile_page()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, style)]
    assert policy == f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'"
    assert "http" not in text.replace("http-equiv", "")
    assert "innerHTML" not in script


def test_tokens_of_one_text_stay_apart_and_are_shared_between_panels():
    recording = synthetic(6, 8, 4)
    ids = sorted(texts_of(recording))
    same = dict.fromkeys(ids, "x")
    data = data_of(page([Panel("a", {0: recording}, same), Panel("b", {0: recording}, same)]))
    assert data["tokens"] == ["", *["x"] * len(ids)]
    first, second = (trace["rows"]["0"] for trace in data["traces"])
    assert first["planes"] == second["planes"]


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    write_page(tmp_path / "deep" / "p.html", "é")
    assert (tmp_path / "deep" / "p.html").read_text(encoding="utf-8") == "é"
    with pytest.raises(UserError, match="output: expected a file to write, got the folder"):
        write_page(tmp_path, "x", "output")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="path: cannot write"):
        write_page(tmp_path / "file" / "p.html", "x")
