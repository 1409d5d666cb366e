"""Models of dmaxlit in lm-evaluation-harness."""

from importlib.util import find_spec

from dmaxlit.errors import UserError

__all__ = ["register"]


def register() -> None:
    """Make models known to lm-evaluation-harness as ``dmaxlit``.

    lm-eval finds its own models by name and has no entry points for others, so this must be called once in a process
    before ``simple_evaluate(model="dmaxlit", ...)``; ``python -m dmaxlit lm_eval`` does it.

    Raises:
        UserError: If lm-evaluation-harness is not installed.
    """
    if find_spec("lm_eval") is None:
        raise UserError("lm_eval: expected lm-evaluation-harness, found none; `pip install -e '.[lm-eval]'`")
    import dmaxlit.harness.adapter  # noqa: F401  (registers its class)
