"""Texts that differ from an earlier one in a few words."""

import re

from dmaxlit.errors import UserError

_WORDS = 5  # of a shingle
_NUM_HASHES = 128
_SEED = 1


class NearDuplicates:
    """Finds texts that share most of their runs of five words with an earlier one, by MinHash (Broder, 1997).

    The similarity of two texts is that of their sets of runs, |A and B| / |A or B|. It is estimated from 128 hashes, so
    that texts near the threshold may be taken for either.

    Args:
        similarity: From which on a text repeats another one, from 0.1 to 0.95.

    Raises:
        UserError: If datasketch is not installed.
    """

    def __init__(self, similarity: float) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise UserError("duplicates: expected datasketch for drop_near (pip install -e '.[dedup]')") from error
        self._hash = MinHash
        self._index = MinHashLSH(threshold=similarity, num_perm=_NUM_HASHES)
        self._count = 0

    def repeats(self, text: str) -> bool:
        """Return whether a text repeats an earlier one; if not, later ones are compared with it."""
        minhash = self._hash(num_perm=_NUM_HASHES, seed=_SEED)
        minhash.update_batch([run.encode() for run in _runs(text)])
        if self._index.query(minhash):
            return True
        self._index.insert(self._count, minhash)
        self._count += 1
        return False


def _runs(text: str) -> set[str]:
    """Return the runs of five words of a text, or the whole of a shorter one; signs count as words."""
    words = re.findall(r"\w+|[^\w\s]", text)
    return {" ".join(words[begin : begin + _WORDS]) for begin in range(max(1, len(words) - _WORDS + 1))}
