"""BM25 by Lucene itself, through Pyserini."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from retrieval.bm25.scoring import Scoring
from retrieval.errors import BackendUnavailableError, IndexFormatError
from retrieval.extras import require
from retrieval.lucene.java import find_java
from retrieval.protocol import Corpus, Passage, require_k
from retrieval.storage.manifest import REBUILD
from retrieval.storage.opening import Built, open_built
from retrieval.text import to_nfc


class Lucene:
    """Lucene's BM25 over an index on disk, ranked by score and then by id.

    Args:
        folder: Folder of an index of kind `lucene`, or its files if they are open already.
        passages: The corpus that it was built from.

    Attributes:
        passages: The corpus.
        index_hash: Hash of the index.

    Raises:
        BackendUnavailableError: If Pyserini, or a Java that it runs on, is missing.
        IndexFormatError: If the folder is something else, or its files are corrupt.
    """

    def __init__(self, folder: str | Path | Built, passages: Corpus) -> None:
        self._built = open_built(folder, "lucene")
        self.passages, self.index_hash = passages, self._built.manifest.hash
        scoring = Scoring.of(self._built)
        searcher = _java_class("io.anserini.search.SimpleSearcher")
        self._list, self._string = (
            _java_class("java.util.ArrayList"),
            _java_class("java.lang.String"),
        )
        path = self._built.path / "lucene"
        try:
            self._searcher = searcher(str(path))
        except Exception as problem:  # jnius raises whatever Java threw
            raise IndexFormatError(
                f"{path}: expected an index that Lucene reads, found {problem}; {REBUILD}"
            ) from None
        self._searcher.set_bm25(float(scoring.k1), float(scoring.b))

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank the corpus for each query.

        Args:
            queries: Any texts.
            k: Most passages to return for a query, >= 1.

        Returns:
            For each query its passages, best first; the queries are spread over the cores.

        Raises:
            SearchArgumentError: If `k` is below 1.
            IndexFormatError: If the files were altered since they were opened.
        """
        require_k(k)
        self._built.check()
        k = min(k, max(1, len(self.passages)))
        texts, numbers = self._list(), self._list()
        for number, query in enumerate(queries):
            if query.strip():
                texts.add(self._string(to_nfc(query).encode("utf-8", "replace")))
                numbers.add(str(number))
        threads = len(os.sched_getaffinity(0))
        found = self._searcher.batch_search(texts, numbers, k, threads)
        hits = [found.get(str(number)) or [] for number in range(len(queries))]
        find = self.passages.find
        return [[find(hit.docid).scored(float(hit.score)) for hit in row] for row in hits]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the folder: another process opens the same build of it."""
        return type(self), (self._built, self.passages)


def write_lucene(passages: Iterable[Passage], folder: Path) -> None:
    """Index a corpus with Anserini's English analyzer.

    Args:
        passages: The passages; titles and texts are both indexed.
        folder: Where the index is written to; it does not depend on k1 and b.

    Raises:
        BackendUnavailableError: If Pyserini or Java is missing, or indexing fails.
    """
    environment = {**os.environ, "JAVA_HOME": str(_prepare())}
    corpus = folder / "corpus"
    corpus.mkdir()
    with (corpus / "passages.jsonl").open("w", encoding="utf-8") as file:
        for passage in passages:
            record = {"id": passage.id, "contents": to_nfc(passage.contents)}
            file.write(json.dumps(record) + "\n")
    # One thread: with more, the order of passages, and so of ties, differs from build to build.
    command = [sys.executable, "-m", "pyserini.index.lucene", "--collection", "JsonCollection"]
    command += ["--input", str(corpus), "--index", str(folder / "lucene")]
    command += ["--generator", "DefaultLuceneDocumentGenerator", "--threads", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    shutil.rmtree(corpus)
    if done.returncode != 0 or not (folder / "lucene").is_dir():
        raise BackendUnavailableError(
            f"expected Pyserini to index the corpus, found exit code {done.returncode}: "
            f"{(done.stderr or done.stdout)[-2000:]}"
        )


def _java_class(name: str) -> Any:
    os.environ["JAVA_HOME"] = str(_prepare())
    try:
        from pyserini.pyclass import autoclass
    except Exception as problem:  # jnius raises whatever the loading of Java ends in
        raise BackendUnavailableError(
            f"expected Pyserini to start Java, found {type(problem).__name__}: {problem}"
        ) from problem
    return autoclass(name)


def _prepare() -> Path:
    purpose = "a lucene index (bm25 with --style lucene ranks alike without Java)"
    require("pyserini", purpose, BackendUnavailableError)
    return find_java()
