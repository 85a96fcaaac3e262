"""Where a corpus comes from: a file, a stored folder, an index, or a data set of `datasets`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrieval.corpus.passages import Passages, passage_of, read_passages
from retrieval.corpus.store import StoredPassages
from retrieval.errors import CorpusNotFoundError
from retrieval.protocol import Passage
from retrieval.storage.manifest import MANIFEST

DATASETS = "datasets:"
"""Prefix of a source that `datasets` reads."""


def read_source(source: str | Path) -> Iterator[Passage]:
    r"""Read a corpus passage by passage.

    Args:
        source: A JSON-lines file (`.jsonl`, `.jsonl.gz`), a folder of stored passages or an
            index that holds some, or `datasets:NAME`: a data set of the Hugging Face hub, or a
            folder that `datasets` saved. Rows are those of `passage_of` wherever they come
            from: `id` and `contents` (`"Title"\ntext`), or `id`, `title` and `text`.
            `datasets:NAME@SPLIT` takes a split other than `train`.

    Yields:
        The passages in corpus order.

    Raises:
        CorpusNotFoundError: If there is no such source.
        CorpusFormatError: If a record is malformed.
    """
    name = str(source)
    if name.startswith(DATASETS):
        yield from _from_datasets(name.removeprefix(DATASETS))
    elif Path(name).is_dir():
        yield from StoredPassages(name)
    else:
        yield from (passage for _, passage in read_passages(name))


def open_passages(source: str | Path) -> Passages | StoredPassages:
    """Open a corpus: a folder is mapped, a file is read into memory.

    Args:
        source: A folder of stored passages, an index that holds some, or a small corpus file.

    Returns:
        The passages.

    Raises:
        CorpusNotFoundError: If there is no such file or folder.
        RetrievalError: If it is malformed, incomplete or altered.
    """
    if (Path(source) / MANIFEST).exists():
        return StoredPassages(source)
    if Path(source).is_dir():
        raise CorpusNotFoundError(
            f"expected stored passages in {source}, found no {MANIFEST}; build them with "
            "`at2po index build`"
        )
    return Passages.from_jsonl(source)


def _from_datasets(name: str) -> Iterator[Passage]:
    import datasets

    name, _, split = (name, "", "") if Path(name).is_dir() else name.partition("@")
    source = f"{DATASETS}{name}@{split or 'train'}"
    rows = _rows(datasets, name, split)
    for number in itertools.count():
        try:
            row = next(rows, None)
        except Exception as error:  # `datasets` raises errors of many libraries
            raise CorpusNotFoundError(
                f"{source}: expected a data set that `datasets` reads, found after {number} rows: "
                f"{type(error).__name__}: {error}"[:500]
                + "; check its name, or fetch it again"
            ) from error
        if row is None:
            return
        yield passage_of(row, f"{source}, row {number}")


def _rows(datasets: Any, name: str, split: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a data set; nothing is looked up before the first one is asked for."""
    if not Path(name).is_dir():
        yield from datasets.load_dataset(name, split=split or "train", streaming=True)
        return
    loaded = datasets.load_from_disk(name)
    if not isinstance(loaded, datasets.DatasetDict):  # a split that was saved alone
        loaded = {split: loaded} if split in ("", str(loaded.split or "train")) else {}
    elif not split:
        split = "train"
    if split not in loaded:
        raise LookupError(f"no split {split!r}")
    yield from loaded[split]
