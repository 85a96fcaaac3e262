"""Building, describing and trying out an index: what `at2po index` does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from retrieval.bm25.postings import invert
from retrieval.bm25.scoring import Scoring, Style
from retrieval.corpus.passages import no_passages
from retrieval.corpus.sources import read_source
from retrieval.corpus.store import StoredPassages, put_passages, store_passages
from retrieval.dense.encoder import Dtype, Encoder, EncoderSettings
from retrieval.errors import SearchArgumentError
from retrieval.factory import open_retriever
from retrieval.protocol import Corpus, Passage, require_k
from retrieval.storage.generations import building
from retrieval.storage.manifest import MANIFEST, PASSAGES, Manifest
from retrieval.storage.opening import open_built

_log = logging.getLogger(__name__)

_LIBRARIES = "at2po bm25s faiss-cpu faiss-gpu numpy pyserini torch transformers".split()


@dataclass(frozen=True, kw_only=True)
class IndexBuild:
    """Build an index of a corpus, or store the passages alone."""

    corpus: str
    """A .jsonl or .jsonl.gz file, a folder of stored passages, or datasets:NAME[@SPLIT]."""
    out: Path
    """Folder of the index; an earlier one there stays in use until the new one is complete."""
    kind: Literal["bm25", "dense", "lucene", "passages"] = "bm25"
    """What to build; `passages` stores the corpus, for several indexes to share."""
    style: Style = "bm25s"
    """Of bm25: its analyzer and arithmetic; `lucene` ranks as Anserini's Lucene does."""
    k1: float = 0.9
    """Of bm25 and lucene: saturation of term frequency."""
    b: float = 0.4
    """Of bm25 and lucene: normalisation of length."""
    model: str = "intfloat/e5-base-v2"
    """Of dense: folder or name of the encoder."""
    query_prefix: str | None = None
    """Of dense: put before a query; by default `query: ` for E5's models."""
    passage_prefix: str | None = None
    """Of dense: put before a passage; by default `passage: ` for E5's models."""
    max_tokens: int = 256
    """Of dense: where texts are cut."""
    factory: str = "Flat"
    """Of dense: FAISS's description of the index: Flat, SQ8, HNSW32, IVF4096,PQ64."""
    search: str = ""
    """Of dense: FAISS's search parameters: nprobe=32, efSearch=64."""
    dtype: Dtype | None = None
    """Of dense: number format of the encoder; by default float16 on a GPU, else float32."""
    vectors: Path | None = None
    """Of dense: file that keeps the vectors, to resume from or to build other indexes from."""
    seed: int = 0
    """Of dense: seed of the training sample and of the queries that recall is measured with."""


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """Say what an index is, and check its files."""

    index: Path
    """Folder of the index."""
    verify: bool = False
    """Compare every byte with its hash instead of a sample."""


@dataclass(frozen=True, kw_only=True)
class IndexSearch:
    """Search with a retriever."""

    retriever: str
    """bm25:FOLDER, dense:FOLDER, lucene:FOLDER, hybrid:A+B or http://HOST:PORT."""
    queries: tuple[str, ...]
    """What to search for."""
    k: int = 3
    """Passages per query."""


def build_index(settings: IndexBuild) -> dict[str, Any]:
    """Build an index, or a store of passages, in one step that a failure leaves without effect.

    Args:
        settings: Corpus, kind and parameters.

    Returns:
        What `index_info` says of it.

    Raises:
        RetrievalError: If the corpus is malformed, a parameter is out of range, something needed
            is missing, or the folder holds something else.
    """
    start = time.perf_counter()
    if settings.kind == PASSAGES:
        store_passages(_read(settings.corpus), settings.out)
        return index_info(IndexInfo(index=settings.out))
    write = _WRITERS[settings.kind](settings)  # checks the parameters before anything is read
    with building(settings.out, settings.kind) as (data, manifest):
        write(_corpus(settings.corpus, data, manifest), data, manifest)
        manifest.facts["build_seconds"] = round(time.perf_counter() - start, 3)
        manifest.facts["versions"] = _versions()
    _log.info("%s of %d passages is in %s", settings.kind, manifest.documents, settings.out)
    return index_info(IndexInfo(index=settings.out))


def index_info(settings: IndexInfo) -> dict[str, Any]:
    """Describe an index, or a store of passages, after a check of its files.

    Args:
        settings: Which, and how thorough a check.

    Returns:
        Kind, hashes, number of passages, bytes, parameters and what was measured; JSON-able.

    Raises:
        IndexFormatError: If it is something else, or a file is missing or corrupt.
    """
    built = open_built(settings.index)
    if settings.verify:
        built.verify()
    manifest = built.manifest
    return {
        "kind": manifest.kind,
        "index_hash": manifest.hash,
        "corpus_hash": manifest.corpus,
        "documents": manifest.documents,
        "bytes": manifest.bytes,
        "parameters": manifest.parameters,
        "facts": manifest.facts,
    }


def search_index(settings: IndexSearch) -> list[list[Passage]]:
    """Search with a retriever.

    Args:
        settings: Retriever, queries and number of passages.

    Returns:
        For each query its passages, best first.

    Raises:
        RetrievalError: If the retriever cannot be opened or `k` is out of range.
    """
    require_k(settings.k)
    return open_retriever(settings.retriever).search(settings.queries, settings.k)


def _corpus(source: str, data: Path, manifest: Manifest) -> StoredPassages:
    """The passages of the index, which holds its own: others may come and go."""
    if not (Path(source) / MANIFEST).exists():
        return put_passages(_read(source), data, manifest)
    passages = StoredPassages(source)
    if not len(passages):
        raise no_passages(source)
    return put_passages(passages, data, manifest)


def _read(source: str) -> Iterator[Passage]:
    """Read a corpus that must have a passage."""
    empty = True
    for passage in read_source(source):
        empty = False
        yield passage
    if empty:
        raise no_passages(source)


def _lexical(settings: IndexBuild) -> _Write:
    style = settings.style if settings.kind == "bm25" else "lucene"
    scoring = Scoring(settings.k1, settings.b, style)

    def write(passages: Corpus, data: Path, manifest: Manifest) -> None:
        if settings.kind == "bm25":
            invert(passages, scoring, data)
        else:
            from retrieval.lucene.index import write_lucene

            write_lucene(passages, data)
        manifest.parameters = asdict(scoring)

    return write


def _dense(settings: IndexBuild) -> _Write:
    from retrieval.dense.build import DenseParameters, write_dense

    names = settings.model, settings.query_prefix, settings.passage_prefix, settings.max_tokens
    parameters = DenseParameters(
        EncoderSettings(*names), settings.factory, settings.search, settings.seed
    )
    vectors = settings.vectors
    if vectors is not None and vectors.resolve().is_relative_to(settings.out.resolve()):
        raise SearchArgumentError(
            f"expected --vectors outside the index, found {vectors}; choose a file that a later "
            "build does not replace"
        )

    def write(passages: Corpus, data: Path, manifest: Manifest) -> None:
        encoder = Encoder(parameters.encoder, dtype=settings.dtype)
        manifest.parameters = asdict(parameters)
        manifest.facts |= write_dense(passages, data, parameters, vectors=vectors, encoder=encoder)

    return write


_Write = Callable[[Corpus, Path, Manifest], None]


_WRITERS = {"bm25": _lexical, "lucene": _lexical, "dense": _dense}


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
