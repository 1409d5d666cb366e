"""``one_rank_dies.py RECORDS ...``: the command line, in which rank 1 is killed after so many records."""

import os
import signal
import sys

from dmaxlit.cli import main
from dmaxlit.data import response_rows
from dmaxlit.data.parts import PartWriter


class DyingWriter(PartWriter):
    """Writes some records, and is killed."""

    records = 0

    def record(self):
        super().record()
        self.records += 1
        if self.records == int(sys.argv[1]) and os.environ.get("LOCAL_RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    vars(response_rows)["PartWriter"] = DyingWriter
    main(sys.argv[2:])
