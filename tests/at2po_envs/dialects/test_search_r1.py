from __future__ import annotations

import json

import pytest

from at2po_envs import Action, Reading, SearchTool, ToolCall, ToolQA, ToolResult, judge
from at2po_envs.dialects import SearchR1Tags
from at2po_envs.question_sets.questions import Question
from retrieval import BM25, Passage, Passages

TAGS = SearchR1Tags()
INVALID = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> "
    "and </search>. If I want to give the final answer, I should put the answer between <answer> "
    "and </answer>. Let me try again.\n"
)


def test_the_prompt_is_the_published_one():
    prompt = TAGS.prompt("who wrote it?")
    assert prompt == (
        "Answer the given question. You must conduct reasoning inside <think> and </think> first "
        "every time you get new information. After reasoning, if you find you lack some knowledge, "
        "you can call a search engine by <search> query </search> and it will return the top "
        "searched results between <information> and </information>. You can search as many times "
        "as your want. If you find no further external knowledge needed, you can directly provide "
        "the answer inside <answer> and </answer>, without detailed illustrations. For example, "
        "<answer> Beijing </answer>. Question: who wrote it?\n"
    )
    assert prompt.messages == ({"role": "user", "content": str(prompt)},) and prompt.tools == ()
    assert SearchR1Tags("brief").prompt("{}") == "Question: {}\n"
    assert TAGS.stop == ("</search>", "</answer>")


def search(query):
    return Action("tool", (ToolCall("search", {"query": query}),))


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>a</think>\n<search> Ada </search>", search("Ada")),
        ("<search>Ada</search><search>Bob</search>", search("Ada")),
        ("<search>Ada</search><answer>x</answer>", search("Ada")),
        ("<answer>x</answer><search>Ada</search>", Action("answer")),
        ("<think><search></think><search>Ada</search>", search("Ada")),
        ("</answer><search>Ada</search>", search("Ada")),
        ("<answer>x <search>Ada</search></answer>", search("Ada")),
    ],
)
def test_the_first_complete_pair_of_tags_decides(text, action):
    assert TAGS.parse(text) == action


@pytest.mark.parametrize("text", ["", "Ada", "<search>Ada", "Ada</search>", "<answer>", "<think>"])
def test_a_turn_with_neither_is_told_so_and_goes_on(text):
    core = ToolQA(TAGS, max_tool_calls=2)
    state, _ = core.begin(Question("q", "Who?", ("Ada",)))
    step = core.transition(state, text)
    assert step.observation == INVALID and not step.terminated
    assert step.state.tool_calls == 1 and step.state.flags == ()
    step = core.transition(core.transition(step.state, text).state, text)
    assert step.state.limit_reached and "limit of searches is reached" in step.observation
    step = core.transition(step.state, text)
    assert step.terminated and step.info["answer"] is None and not step.info["format_ok"]


def test_an_empty_query_is_told_so():
    (call,) = TAGS.parse('<search> "" </search>').calls
    assert call.problem == "The query is empty."
    failed = ToolResult(False, "", call.problem)
    assert TAGS.render([failed]) == "\n\n<information>The query is empty.</information>\n\n"


def test_passages_are_laid_out_as_documents():
    passages = [Passage("0", "Ada", "Ada was\na poet."), Passage("1", "Bob", "Bob and Ada.")]
    (result,) = SearchTool(BM25(Passages(passages)))([{"query": "poet Ada"}])
    assert TAGS.render([result]) == (
        '\n\n<information>Doc 1(Title: "Ada") Ada was\na poet.\n'
        'Doc 2(Title: "Bob") Bob and Ada.</information>\n\n'
    )
    assert result.text == 'Page 1: "Ada"\nAda was\na poet.\nPage 2: "Bob"\nBob and Ada.'
    assert SearchR1Tags(information_chars=9).render([result]) == (
        "\n\n<information>Doc 1(Tit</information>\n\n"
    )
    with pytest.raises(ValueError, match="information_chars: expected an integer >= 1, found 0"):
        SearchR1Tags(information_chars=0)


@pytest.mark.parametrize(
    ("turns", "answer", "format_ok"),
    [
        (["<think>a</think><answer> Ada </answer>"], "Ada", True),
        (["<think>a</think>\n<search>q</search>", " <think/><answer>Ada</answer>"], "Ada", False),
        (
            ["<think>a</think>\n<search>q</search>", "<think>b</think> <answer>A</answer>"],
            "A",
            True,
        ),
        (["<answer>Ada</answer>"], "Ada", False),
        (["<think>a</think> so <answer>Ada</answer>"], "Ada", False),
        (["<think>a</think><think>b</think><answer>Ada</answer>"], "Ada", False),
        (["<think>a<search></think><answer>Ada</answer>"], "Ada", True),
        (["<think>use <answer> now</think><answer>Ada</answer>"], "Ada", True),
        (["<think>a</result><think>b</think><answer>Ada</answer>"], "Ada", False),
        (["<think>a</think><answer>the </think> tag</answer>"], "the </think> tag", True),
        (["<think>a</think><information>Ada</information><answer>x</answer>"], "x", False),
        (["<think>a</think><answer>a</answer><answer>b</answer>"], "a", True),
        (["<answer>a</answer><answer>b</answer><search>q</search>"], "b", False),
        (["<think>a</think><answer>a</answer> more"], "a", True),
        (["<think>a</think><search>q</search>"], None, False),
        (["<think>a</think>", "<think>b</think><answer>A</answer>"], "A", False),
        (["<answer>never closed"], None, False),
        ([], None, False),
    ],
)
def test_answer_and_format(turns, answer, format_ok):
    assert TAGS.read(turns) == Reading(answer, format_ok)


@pytest.mark.parametrize("set_name", ["bamboogle", "nq", "popqa", "triviaqa"])
def test_recorded_rollouts_score_as_recorded(at2po_data, set_name):
    """The agent's own turns of a recording are what stands between the information blocks."""
    file = at2po_data / "trajectories" / f"search_r1_{set_name}.jsonl"
    judged = 0
    for line in file.read_text(encoding="utf-8").split("\n"):
        row = json.loads(line) if line else {"all_retrievals_genuine": False}
        if not row["all_retrievals_genuine"] or "My previous action" in row["response"]:
            continue
        turns = []
        for piece in row["response"].split("<information>"):
            turns.append(piece.rpartition("</information>")[2])
        verdict = judge(turns, row["golden_answers"], TAGS)
        assert (verdict.answer or "") == row["pred"].strip()
        assert verdict.em == bool(row["em"])
        judged += 1
    assert judged > 50
