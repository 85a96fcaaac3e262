from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pytest

from retrieval import CorpusFormatError, CorpusNotFoundError, Passage, Passages
from retrieval.corpus.passages import passage_of
from retrieval.corpus.sources import read_source


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
        (b'{"id": 7.5, "contents": "\\"T\\"\\nx"}', "id = 7.5"),
        (b'{"id": true, "contents": "\\"T\\"\\nx"}', "id = True"),
        (b'{"id": 7, "title": "T"}', "text = None"),
        (b'{"id": 7, "title": ["T"], "text": "x"}', "title = ['T']"),
        (b'{"id": 7, "title": "T\\nU", "text": "x"}', "write it in one line"),
        (b'{"id": "7", "contents": null}', "contents = None"),
        (b'{"id": "7", "contents": "no title line"}', "write a title line"),
        (b'{"id": "7", "contents": "\xff"}', "utf-8"),
        (b"{}{}", "Extra data"),
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


def test_rows_are_the_same_whatever_they_are_written_in(tmp_path):
    expected = [Passage("7", "Ada", "first\nsecond")]
    rows = [
        {"id": 7, "contents": '"Ada"\nfirst\nsecond'},
        {"id": "7", "title": "Ada", "text": "first\nsecond"},
        {"id": 7, "title": "Ada", "text": "first\nsecond", "contents": None},
    ]
    for row in rows:
        text = json.dumps(row).encode()
        for content in (text, b"\n\r\n" + text + b"\r\n \t\n\n", b"\xef\xbb\xbf" + text):
            (tmp_path / "c.jsonl").write_bytes(content)
            (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(content))
            for name in ("c.jsonl", "c.jsonl.gz"):
                assert list(read_source(tmp_path / name)) == expected
        assert passage_of(row, "a row of `datasets`") == expected[0]
    binary = {"id": np.int64(7), "title": b"Ada", "text": b"first\nsecond"}
    assert passage_of(binary, "a row of `datasets`") == expected[0]
    with pytest.raises(CorpusFormatError, match="row 3: expected"):
        passage_of(binary | {"text": b"\xff"}, "row 3")


def test_surrogates_that_escapes_write_become_replacement_characters(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text(r'{"id": "s\ud83d", "contents": "\"T\"\n\ud83d \ud83d\ude00 \\ud83d"}')
    assert list(Passages.from_jsonl(file)) == [Passage("s\ufffd", "T", "\ufffd \U0001f600 \\ud83d")]


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


def test_a_name_that_stands_in_an_object_twice_is_refused_with_its_line(tmp_path):
    path = tmp_path / "corpus.jsonl"
    for line in (
        '{"id": "a", "contents": "T\\nx", "contents": "U\\ny"}',
        '{"m": {"b": 1, "b": 1}}',
    ):
        path.write_text(line)
        with pytest.raises(CorpusFormatError, match=r"corpus.jsonl:1: .* twice"):
            Passages.from_jsonl(path)
