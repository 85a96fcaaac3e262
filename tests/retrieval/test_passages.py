from __future__ import annotations

import json
import pickle

import pytest

from retrieval import CorpusFormatError, CorpusNotFoundError, Passage, Passages


def line(passage_id: str, contents: str) -> str:
    return json.dumps({"id": passage_id, "contents": contents})


def test_reads_titles_and_texts_in_file_order(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text(line("b", '"Ada"\nfirst\nsecond') + "\n" + line("a", '"""Q"" x"\n') + "\n")
    passages = Passages.from_jsonl(file)
    assert list(passages) == [Passage("b", "Ada", "first\nsecond"), Passage("a", '""Q"" x', "")]
    assert passages[0].contents == '"Ada"\nfirst\nsecond'
    assert passages[1:] == (passages[1],)
    assert len(pickle.loads(pickle.dumps(passages))) == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"not json", "Expecting value"),
        (b'["a list"]', "a JSON list"),
        (b'{"contents": "\\"T\\"\\nx"}', "id = None"),
        (b'{"id": 7, "contents": "\\"T\\"\\nx"}', "id = 7"),
        (b'{"id": "7", "contents": null}', "contents = None"),
        (b'{"id": "7", "contents": "no title line"}', "expected a title line"),
        (b'{"id": "7", "contents": "\xff"}', "utf-8"),
        (b"", "Expecting value"),
        (b"[" * 100_000, "recursion"),
        (line("0", '"T"\nagain').encode(), "'0' of line 1"),
    ],
)
def test_a_malformed_line_is_named_with_what_was_expected(tmp_path, bad, reason):
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(line("0", '"T"\nx').encode() + b"\n" + bad + b"\n")
    with pytest.raises(CorpusFormatError) as caught:
        Passages.from_jsonl(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:2: expected ")
    assert reason in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorpusNotFoundError, match="nowhere.jsonl"):
        Passages.from_jsonl(tmp_path / "nowhere.jsonl")


def test_duplicate_ids_are_refused_in_memory_too():
    with pytest.raises(CorpusFormatError, match="passage 1: expected a new id, found 'x'"):
        Passages([Passage("x", "A", "a"), Passage("x", "B", "b")])


def test_the_data_pack_loads_whole_and_unchanged(at2po_data):
    file = at2po_data / "corpus" / "passages.jsonl"
    passages = Passages.from_jsonl(file)
    with file.open(encoding="utf-8") as lines:
        for passage, text in zip(passages, lines, strict=True):
            record = json.loads(text)
            assert (passage.id, passage.contents) == (record["id"], record["contents"])
