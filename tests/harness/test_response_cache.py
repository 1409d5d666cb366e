import pytest

pytest.importorskip("lm_eval")

from dmaxlit.errors import UserError
from dmaxlit.harness.response_cache import claim_cache


def test_a_cache_is_of_one_model_and_its_settings():
    cache = {}
    for _ in range(2):
        claim_cache(cache, {"model": "a", "decoder": "spd"})
    cache["hash of a request"] = "response"
    claim_cache(cache, {"model": "a", "decoder": "spd"})
    with pytest.raises(UserError, match=r"^use_cache: expected a new cache, .*: decoder was 'spd', now 'edit'"):
        claim_cache(cache, {"model": "a", "decoder": "edit"})


def test_a_cache_of_unknown_responses_is_refused():
    with pytest.raises(UserError, match="got another: who wrote it is not recorded"):
        claim_cache({"hash of a request": "response"}, {"model": "a"})
