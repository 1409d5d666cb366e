"""Texts that differ from an earlier one in a few words."""

import re

from dmaxlit.errors import UserError

_WORDS = 5  # of a shingle
_NUM_HASHES = 128
_SEED = 1
_BAND_WEIGHTS = (0.1, 0.9)  # of false and of missed candidates: a false one costs a comparison only


class NearDuplicates:
    """Finds texts that share most of their runs of five words with an earlier one, by MinHash (Broder, 1997).

    The similarity of two texts is that of their sets of runs, |A and B| / |A or B|. It is estimated from 128 hashes, so
    that texts near the threshold may be taken for either: at 0.8 the standard error is 0.035. Only those that agree in
    all hashes of some band are compared. Every text that repeats none costs memory for its hashes and its place in each
    band: 3 kB at 0.95, 5 kB at 0.8, 11 kB at 0.5 and 20 kB at most.

    Args:
        similarity: From which on a text repeats another one, from 0.1 to 0.95.

    Raises:
        UserError: If datasketch is not installed.
    """

    def __init__(self, similarity: float) -> None:
        try:
            from datasketch import LeanMinHash, MinHash, MinHashLSH
        except ImportError as error:
            raise UserError("duplicates: expected datasketch for drop_near (pip install -e '.[dedup]')") from error
        self._hash, self._frozen = MinHash, LeanMinHash
        self._similarity = similarity
        self._index = MinHashLSH(threshold=similarity, num_perm=_NUM_HASHES, weights=_BAND_WEIGHTS)
        self._kept: list[LeanMinHash] = []

    def repeats(self, text: str) -> bool:
        """Return whether a text repeats an earlier one; if not, later ones are compared with it."""
        minhash = self._hash(num_perm=_NUM_HASHES, seed=_SEED)
        minhash.update_batch([run.encode() for run in _runs(text)])
        if any(minhash.jaccard(self._kept[number]) >= self._similarity for number in self._index.query(minhash)):
            return True
        self._index.insert(len(self._kept), minhash)
        self._kept.append(self._frozen(minhash))
        return False


def _runs(text: str) -> set[str]:
    """Return the runs of five words of a text, or the whole of a shorter one; signs count as words."""
    words = re.findall(r"\w+|[^\w\s]", text)
    return {" ".join(words[begin : begin + _WORDS]) for begin in range(max(1, len(words) - _WORDS + 1))}
