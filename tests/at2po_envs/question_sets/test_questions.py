from __future__ import annotations

import gzip
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from at2po_envs import QUESTION_SETS, At2poEnvError, Question, load_questions
from at2po_envs.errors import DataFormatError, DataNotFoundError
from at2po_envs.question_sets.questions import PUBLISHED, select_questions, with_question_mark

ROW = {"id": "a", "question": "Who?", "golden_answers": ["X", "Y"], "metadata": {"hops": 2}}


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub: `answer` is what load_dataset gives, or the error it raises."""
    state = SimpleNamespace(answer=ConnectionError("no network"), asked=[])

    def load_dataset(repository, config):
        state.asked.append((repository, config))
        if isinstance(state.answer, Exception):
            raise state.answer
        return state.answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *a, **k: None)
    monkeypatch.delenv("AT2PO_DATA", raising=False)
    return state


def test_an_explicit_path_comes_first(tmp_path, monkeypatch, hub):
    write(tmp_path / "questions/nq/train.jsonl", ROW | {"id": "pack"})
    monkeypatch.setenv("AT2PO_DATA", str(tmp_path))
    file = write(tmp_path / "own.jsonl", ROW, ROW | {"id": "b"})
    (first, second) = load_questions("nq", "train", file)
    assert first == Question("a", "Who?", ("X", "Y"), {"hops": 2})
    assert second.id == "b" and hub.asked == []


def test_the_data_pack_comes_second(tmp_path, monkeypatch, hub):
    write(tmp_path / "questions/nq/test.jsonl", ROW)
    monkeypatch.setenv("AT2PO_DATA", str(tmp_path))
    assert [q.id for q in load_questions("nq", "test")] == ["a"]
    assert hub.asked == []


def test_the_hub_comes_last_and_dev_stands_in_for_test(hub):
    hub.answer = {"train": [ROW | {"id": "t"}], "dev": [ROW | {"id": "d"}]}
    assert [q.id for q in load_questions("hotpotqa", "train")] == ["t"]
    assert [q.id for q in load_questions("hotpotqa", "test")] == ["d"]
    hub.answer = {"test": [ROW | {"id": "e"}], "dev": [ROW]}
    assert [q.id for q in load_questions("hotpotqa", "test")] == ["e"]
    assert set(hub.asked) == {("RUC-NLPIR/FlashRAG_datasets", "hotpotqa")}
    with pytest.raises(DataNotFoundError, match="has the splits test, dev, not train"):
        load_questions("hotpotqa", "train")


def test_a_split_that_is_not_the_evaluation_split_never_stands_in_for_it(
    tmp_path, monkeypatch, hub
):
    monkeypatch.setenv("AT2PO_DATA", str(tmp_path))
    write(tmp_path / "questions/nq/train.jsonl", ROW | {"id": "t"})
    write(tmp_path / "questions/nq/dev.jsonl", ROW | {"id": "d"})
    assert [q.id for q in load_questions("nq", "dev")] == ["d"]
    with pytest.raises(DataNotFoundError):  # nq is published with a test split
        load_questions("nq", "test")
    write(tmp_path / "questions/hotpotqa/dev.jsonl", ROW | {"id": "d"})
    assert [q.id for q in load_questions("hotpotqa", "test")] == ["d"]
    write(tmp_path / "questions/hotpotqa/test.jsonl", ROW | {"id": "s"})
    assert [q.id for q in load_questions("hotpotqa", "test")] == ["s"]  # a sample's own split


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_hub_path_reads_a_local_copy_of_the_repository(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "FlashRAG_datasets"
    card = "configs:\n"
    for name, splits in {"hotpotqa": ("train", "dev"), "bamboogle": ("test",)}.items():
        card += f"- config_name: {name}\n  data_files:\n"
        for split in splits:
            write(folder / name / f"{split}.jsonl", ROW | {"id": f"{split}_0"}, ROW)
            card += f"  - split: {split}\n    path: {name}/{split}.jsonl\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")
    monkeypatch.setattr("at2po_envs.question_sets.questions.HUB_REPOSITORY", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("AT2PO_DATA", raising=False)
    for set_name, split, first in [
        ("hotpotqa", "train", "train_0"),
        ("hotpotqa", "test", "dev_0"),
        ("bamboogle", "test", "test_0"),
    ]:
        assert load_questions(set_name, split) == (
            Question(first, "Who?", ("X", "Y"), {"hops": 2}),
            Question("a", "Who?", ("X", "Y"), {"hops": 2}),
        )
    with pytest.raises(DataNotFoundError, match="has the splits test, not train"):
        load_questions("bamboogle", "train")
    with pytest.raises(DataNotFoundError, match="popqa"):
        load_questions("popqa", "test")


def test_questions_are_selected_by_id_and_index():
    a, b, c = questions = tuple(Question(name, f"{name}?", ("x",)) for name in "abc")
    assert select_questions(questions, ["c", 0]) == (c, a)
    assert select_questions(questions, range(2)) == (a, b)
    for wanted, found in [
        (["a", 0], "found 0: twice"),
        (["d"], "found 'd'"),
        ([3], "found 3"),
        ([-1], "found -1"),
        ([None], "found None"),
        ([], "found none"),
        ("abc", "found the text 'abc'"),
    ]:
        with pytest.raises(At2poEnvError, match=found):
            select_questions(questions, wanted)


@pytest.mark.parametrize(
    ("asked", "expected"), [(" Who ", "Who?"), ("Who?", "Who?"), ("Who? ", "Who?"), ("", "?")]
)
def test_a_question_mark_is_appended_as_search_r1_does(asked, expected):
    question = Question("a", asked, ("x",), {"hops": 2})
    assert with_question_mark(question) == Question("a", expected, ("x",), {"hops": 2})
    assert question.question == asked


def test_the_published_sizes_add_up_to_the_papers_totals():
    # Source: AT²PO paper, Figure 4: 22 523 multi-hop and 29 190 single-hop questions.
    sizes = {name: splits.get("test", splits.get("dev")) for name, splits in PUBLISHED.items()}
    multi = ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
    assert sum(sizes[name] for name in multi) == 22_523
    assert sum(size for name, size in sizes.items() if name not in multi) == 29_190
    assert (PUBLISHED["hotpotqa"]["train"], PUBLISHED["nq"]["train"]) == (90_447, 79_168)
    assert set(PUBLISHED) == set(QUESTION_SETS.values())


def test_a_missing_set_names_the_three_places_and_the_fix(tmp_path, monkeypatch, hub):
    monkeypatch.setenv("AT2PO_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError) as caught:
        load_questions("nq", "train")
    message = str(caught.value)
    assert "1. an explicit path: not given" in message
    assert str(tmp_path / "questions/nq/train.jsonl") in message
    assert "ConnectionError: no network" in message
    assert "Fix: pass questions_path" in message and "export AT2PO_DATA" in message


def test_a_wrong_path_is_not_silently_replaced(tmp_path, hub):
    with pytest.raises(DataNotFoundError, match="gone.jsonl"):
        load_questions("nq", "train", tmp_path / "gone.jsonl")
    assert hub.asked == []


def test_an_unknown_set_gets_the_nearest_name():
    with pytest.raises(At2poEnvError, match="found 'hotpot'; did you mean 'hotpotqa'"):
        load_questions("hotpot")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "a JSON list"),
        (json.dumps(ROW | {"id": 3.5}), "id = 3.5"),
        (json.dumps(ROW | {"id": True}), "id = True"),
        (json.dumps(ROW | {"id": ""}), "id = ''"),
        (json.dumps(ROW | {"question": " "}), "question = ' '"),
        (json.dumps(ROW | {"golden_answers": []}), "golden_answers = []"),
        (json.dumps(ROW | {"golden_answers": "X"}), "golden_answers = 'X'"),
        (json.dumps(ROW | {"golden_answers": ["X", None]}), "golden_answers = ['X', None]"),
        (json.dumps(ROW | {"golden_answers": ["", " \n"]}), r"golden_answers = ['', ' \n']"),
        (json.dumps(ROW | {"metadata": "m"}), "metadata = 'm'"),
        (json.dumps(ROW), "'a' of"),
    ],
)
def test_a_malformed_line_is_named_with_what_was_expected(tmp_path, bad, reason):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + bad + "\n")
    with pytest.raises(DataFormatError) as caught:
        load_questions("nq", path=file)
    assert str(caught.value).startswith(f"{file}:2: expected ")
    assert reason in str(caught.value)


def test_rows_are_the_same_whatever_they_are_written_in(tmp_path, hub):
    numbered = ROW | {"id": 7, "golden_answers": ["X", 1969]}
    expected = (Question("7", "Who?", ("X", "1969"), {"hops": 2}),)
    row = json.dumps(numbered).encode()
    for number, content in enumerate(
        [row, b"\n\r\n" + row + b"\r\n \t\n\n", b"\xef\xbb\xbf" + row]
    ):
        file = tmp_path / f"{number}.jsonl"
        file.write_bytes(content)
        packed = tmp_path / f"{number}.jsonl.gz"
        packed.write_bytes(gzip.compress(content))
        for path in (file, packed):
            assert load_questions("nq", path=path) == expected
    arrays = numbered | {"id": np.int64(7), "golden_answers": np.array(["X", "1969"], object)}
    for cells in (
        numbered,
        arrays,
        arrays | {"question": b"Who?", "golden_answers": ("X", b"1969")},
    ):
        hub.answer = {"train": [cells]}
        assert load_questions("nq", "train") == expected


def test_surrogates_that_escapes_write_become_replacement_characters(tmp_path):
    file = tmp_path / "own.jsonl"
    row = r'{"id": "\ud83d", "question": "\uD83D?", "golden_answers": ["\udc00"], "metadata": %s}'
    file.write_text(row % r'{"\ud83d": ["\ud83d", "\ud83d\ude00", "\\ud83d"]}')
    (question,) = load_questions("nq", path=file)
    assert (question.id, question.question) == ("\ufffd", "\ufffd?")
    assert question.golden_answers == ("\ufffd",)
    assert question.metadata == {"\ufffd": ["\ufffd", "\U0001f600", r"\ud83d"]}


def test_numbers_that_name_the_same_row_are_refused(tmp_path):
    file = write(tmp_path / "own.jsonl", ROW | {"id": 7}, ROW | {"id": "7"})
    with pytest.raises(DataFormatError, match="jsonl:2: expected a new id, found '7' of"):
        load_questions("nq", path=file)


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(DataFormatError, match="expected at least one question"):
        load_questions("nq", path=write(tmp_path / "own.jsonl"))
    (tmp_path / "own.jsonl").write_bytes(b"\xef\xbb\xbf\n \n")
    with pytest.raises(DataFormatError, match="expected at least one question"):
        load_questions("nq", path=tmp_path / "own.jsonl")


def test_the_key_depends_on_id_question_and_answers_only():
    question = Question("a", "Who?", ("X",), {"m": 1})
    # SHA-256 of ["a", "Who?", ["X"]], so that seeds stay the same between versions.
    assert question.key == "fe6ad11507be886f643103d99a020e65c0d75850dde63cc168e6c25b36f4edfd"
    assert Question("a", "Who?", ("X",)).key == question.key
    others = [Question("b", "Who?", ("X",)), Question("a", "W", ("X",)), Question("a", "Who?", ())]
    assert question.key not in {other.key for other in others}
    assert len(Question("\ud800", "\u8bd7", ("x",)).key) == 64
    assert hash(question) == hash(Question("a", "Who?", ("X",), {"m": 2}))


@pytest.mark.parametrize("set_name", QUESTION_SETS.values())
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_set_of_the_data_pack_loads(at2po_data, set_name, split):
    file = at2po_data / "questions" / set_name / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    loaded = load_questions(set_name, split)
    assert [(q.id, q.question, list(q.golden_answers)) for q in loaded] == [
        (row["id"], row["question"], row["golden_answers"]) for row in rows
    ]
