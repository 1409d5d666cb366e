"""Streamed corpora for tests: rows that say their number, in shards of several kinds."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.tasks import ChainTask
from dmaxlit.tokens import Role


def row(number):
    """Return a row whose response is a number in digits that the chain task's tokenizer knows."""
    return {"prompt": "take ?", "response": " ".join(f"{number:04d}")}


def write_shards(folder, sizes, first=0, make=row):
    """Write numbered rows into one Parquet file, in groups of 7 rows, and JSONL files; return the folder."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for shard, size in enumerate(sizes):
        rows = [make(number) for number in range(first, first + size)]
        if shard == 1:
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard}.parquet", row_group_size=7)
        else:
            (folder / f"{shard}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
        first += size
    return str(folder)


def streamed(corpus, **options):
    """Return a data module that streams a corpus."""
    data = SelfDistilledDataModule(
        corpus, **{"batch_size": 4, "shuffle_buffer": 10, "seed": 1, **options}, streaming=True
    )
    data.bind(ChainTask.tokenizer(), 4, 16)
    data.setup("fit")
    return data


def numbers_of(batch):
    """Return the numbers of a batch's rows, as their tokens say."""
    texts = [
        ChainTask.tokenizer().decode(ids[roles == Role.RESPONSE], skip_special_tokens=True)
        for ids, roles in zip(batch["ids"], batch["roles"], strict=True)
    ]
    return [int(text.replace(" ", "")) for text in texts]
