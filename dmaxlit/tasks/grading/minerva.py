"""The form in which Minerva (Lewkowycz et al. 2022, appendix D.1) compares answers of MATH."""

import re

_REPLACED = {
    "an ": "",
    "a ": "",
    ".$": "$",
    r"\$": "",
    r"\ ": "",
    " ": "",
    "mbox": "text",
    r",\text{and}": ",",
    r"\text{and}": ",",
    r"\text{m}": r"\text{}",
}
_REMOVED = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", r"\ldots", "points"),
    *("feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students"),
    *("multiples", r"\text{s}", r"\text{.}", "\\text{\ns}", r"\text{}^2", r"\text{}^3", "\\text{\n}", r"\text{}"),
    *(r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', r"\dots"),
)
_REWRITTEN = (
    (re.compile(r"^(.*?)(\$)(.*?)(\$)(.*)", re.MULTILINE), r"$\3$"),
    (re.compile(r"\\text\{(.*?)\}"), r"\1"),
    (re.compile(r"\\textbf\{(.*?)\}"), r"\1"),
    (re.compile(r"\\overline\{(.*?)\}"), r"\1"),
    (re.compile(r"\\boxed\{(.*)\}"), r"\1"),
    (re.compile(r"(frac)([^{])(.)"), r"frac{\2}{\3}"),
    (re.compile(r"(sqrt)([^{])"), r"sqrt{\2}"),
)


def minerva_form(answer: str) -> str:
    """Return an answer in LaTeX without articles, units, spaces and emphasis; of an equation, its right side.

    Args:
        answer: The answer.
    """
    text = answer.rpartition("=")[2]
    for written, plain in _REPLACED.items():
        text = text.replace(written, plain)
    for removed in _REMOVED:
        text = text.replace(removed, "")
    for pattern, form in _REWRITTEN:
        text = pattern.sub(form, text)
    text = text.replace("$", "")
    if text.replace(",", "").isdigit():
        text = text.replace(",", "")
    return text.replace(r"\{", "{").replace(r"\}", "}").strip(" \n\t\r,.;:!\u3002\uff1b\uff0c")
