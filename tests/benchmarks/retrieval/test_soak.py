"""The soak: sound clients notice nothing but load, and figures say so."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'at2po[serve]'")

from benchmarks.errors import EvaluationError
from benchmarks.retrieval import soak as retrieval_soak
from benchmarks.retrieval.rude_clients import KINDS, _repeat
from tests.retrieval.http.live_server import get, live, parse

SECONDS = float(os.environ.get("AT2PO_SOAK_SECONDS", "5"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    corpus, questions = tmp_path / "corpus.jsonl", tmp_path / "questions.jsonl"
    lines = [{"id": str(i), "contents": f'"T{i}"\nriver {i} in county {i % 7}'} for i in range(500)]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions.write_text("".join(json.dumps({"question": f"river {i}"}) + "\n" for i in range(50)))
    return corpus, questions


@pytest.mark.slow
def test_sound_clients_lose_nothing_beside_hostile_ones(files, tmp_path, capsys):
    """`AT2PO_SOAK_SECONDS` makes it longer."""
    corpus, questions = files
    out = tmp_path / "soak.json"
    words = f"--clients 16 --rude 28 --seconds {SECONDS} --out {out}"
    retrieval_soak.main(
        ["--retriever", f"bm25:{corpus}", "--questions", str(questions), *words.split()]
    )
    figures = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert figures["attempts"].keys() == KINDS.keys()
    for run in (figures["alone"], figures["beside"]):
        replies = run["replies"]
        assert replies.pop("exact") > 0 and not any(replies.values())
        assert run["fewest_per_client"] > 0
    assert figures["log_lines"] < 100
    first = figures["beside"]["states"][0]
    assert figures["after"]["descriptors"] <= figures["alone"]["states"][0]["descriptors"] + 8
    assert figures["after"]["resident_mib"] < first["resident_mib"] + 64


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_rude_client_leaves_the_server_well(name, monkeypatch):
    monkeypatch.setattr("benchmarks.retrieval.rude_clients._HELD", 20)
    with live(bounds={"head_timeout_s": 0.5, "max_connections": 8}) as server:
        over, done = threading.Event(), Counter()
        timer = threading.Timer(0.3, over.set)
        timer.start()
        _repeat(name, KINDS[name], server.port, 0, over, done)
        timer.join()
        assert done[name] >= 1
        assert parse(server.say(get("/health")))[0] == 200


@pytest.mark.parametrize("change", [{"rude": 0}, {"clients": 0}, {"seconds": 0.0}])
def test_numbers_out_of_range_are_refused(files, change):
    config = retrieval_soak.SoakConfig(retriever="bm25:x", questions=files[1], **change)
    with pytest.raises(EvaluationError, match="seconds > 0"):
        retrieval_soak.measure(config)
