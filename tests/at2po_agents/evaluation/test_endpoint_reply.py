"""Replies as servers spell them: thoughts, stop strings, calls, counts, a context that is full."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_agents.errors import AgentUnusableError
from at2po_agents.evaluation.endpoint.agent import EndpointAgent, EndpointOptions
from at2po_agents.evaluation.endpoint.chat import request_messages
from at2po_agents.evaluation.endpoint.reply import error_of, read_completion, says_context_is_full
from at2po_envs import Messages, make_dialect

STOP = ("</search>", "</answer>")
MENTIONS = "I could <search> for it, or <answer> now."


def read(choice: dict[str, Any], **more: Any) -> Any:
    return read_completion({"choices": [choice], **more}, STOP)


def said(content: Any, finish: str | None = "stop", /, **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **choice.pop("message", {})}
    return {"index": 0, "message": message, "finish_reason": finish, **choice}


VLLM = {"logprobs": None, "stop_reason": None, "token_ids": None}
VLLM_MESSAGE = {"refusal": None, "annotations": None, "function_call": None, "tool_calls": []}


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        # vLLM names the string, or gives null or the number of a token.
        (said("a <search> q", **{**VLLM, "stop_reason": "</search>"}), "a <search> q</search>"),
        (said("a <search> q", **VLLM), "a <search> q"),
        (said("a <search> q", **{**VLLM, "stop_reason": 151645}), "a <search> q"),
        (said(f"<think> {MENTIONS} </think> Done.", **VLLM), f"<think> {MENTIONS} </think> Done."),
        # SGLang
        (said("a <search> q", matched_stop="</search>"), "a <search> q</search>"),
        (said("a <search> q", matched_stop=151645), "a <search> q"),
        (said("a <search> q", matched_stop="<|im_end|>"), "a <search> q"),
        (said("a <search> q", "length", matched_stop=None), "a <search> q"),
        # TGI has words of its own for the end.
        (said("a <search> q", "eos_token"), "a <search> q"),
        (said("a <search> q", "stop_sequence"), "a <search> q</search>"),
        # Anthropic's, behind a gateway
        (said("a <search> q", stop_reason="end_turn"), "a <search> q"),
        (
            said("a <search> q", stop_reason="stop_sequence", stop_sequence="</search>"),
            "a <search> q</search>",
        ),
        (said("a <search> q", stop_reason="stop_sequence"), "a <search> q</search>"),
        # OpenAI, llama.cpp, Ollama and LM Studio do not say; the open tag does.
        (said("a <search> q"), "a <search> q</search>"),
        (said("a <search> q", None), "a <search> q</search>"),
        (said("a <search> q", "STOP"), "a <search> q</search>"),
        (said("<think> a </think> <search> b"), "<think> a </think> <search> b</search>"),
        (said("<think> a <search> b"), "<think> a <search> b</search>"),
        (said("I could <search> but <answer> x"), "I could <search> but <answer> x</answer>"),
        (said(f"<think> {MENTIONS} </think> Done."), f"<think> {MENTIONS} </think> Done."),
        (said(f"{MENTIONS} </think> Done."), f"{MENTIONS} </think> Done."),
        (said("I do not know."), "I do not know."),
        (said("<answer> a", "length"), "<answer> a"),
        (said("<answer> a", "tool_calls"), "<answer> a"),
        # Some ignore stop strings; tags in thoughts are mentions.
        (said("<answer> a </answer>"), "<answer> a </answer>"),
        (said("<search> b</search> <result> made up"), "<search> b</search>"),
        (
            said("<think> no </search> yet </think> <search> b</search> <result> made up"),
            "<think> no </search> yet </think> <search> b</search>",
        ),
        (
            said("<search> b</search> <think> c </think> <answer> d </answer>"),
            "<search> b</search>",
        ),
    ],
)
def test_a_stop_string_is_there_where_the_server_cut_and_nowhere_else(
    choice: dict[str, Any], text: str
) -> None:
    assert read(choice).text == text


THOUGHT = "<think>\nHm.\n</think>\n\n<search> q</search>"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"reasoning_content": "Hm."}, THOUGHT),  # SGLang, llama.cpp, DeepSeek, older vLLM
        ({"reasoning_content": "\nHm.\n", **VLLM_MESSAGE}, THOUGHT),
        ({"reasoning": "Hm."}, THOUGHT),  # vLLM, Ollama
        ({"reasoning": "Hm.", "reasoning_content": "Hm."}, THOUGHT),
        ({"reasoning": None, "reasoning_content": "Hm."}, THOUGHT),
        ({"thinking": "Hm."}, THOUGHT),
        # OpenRouter
        ({"reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}, THOUGHT),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, THOUGHT[22:]),
        ({"reasoning_content": ""}, THOUGHT[22:]),
        ({"reasoning_content": {"a": 1}}, THOUGHT[22:]),
    ],
)
def test_thoughts_beside_the_content_are_part_of_the_turn(
    message: dict[str, Any], text: str
) -> None:
    assert read(said("<search> q", message=message)).text == text


def test_thoughts_are_there_once_and_a_refusal_is_what_was_said() -> None:
    assert read(said(None, message={"refusal": "I cannot."})).text == "I cannot."
    inline = "<think>\nHm.\n</think>\n\n<answer> x </answer>"
    message = {"reasoning_content": "Hm."}
    assert read(said(inline, message=message)).text == inline
    assert read(said("Hm.</think> x", message=message)).text == "Hm.</think> x"


def test_thoughts_that_mention_tags_do_not_end_the_turn() -> None:
    message = {"reasoning_content": f"{MENTIONS} </search>"}
    text = read(said("<answer> x", message=message)).text
    assert text == f"<think>\n{MENTIONS} </search>\n</think>\n\n<answer> x</answer>"
    text = read(said(None, message={"reasoning": MENTIONS})).text
    assert text == f"<think>\n{MENTIONS}\n</think>\n\n"


def test_thoughts_that_were_cut_off_have_no_end() -> None:
    turn = read(said(None, "length", message={"reasoning_content": "Hm, let"}))
    assert (turn.text, turn.truncated) == ("<think>\nHm, let", True)
    choice = said(None, message={"reasoning": "Hm <search> q"}, stop_reason="</search>")
    assert read(choice).text == "<think>\nHm <search> q</search>"


A = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ([A, {"type": "text", "text": " b"}], "a b"),
        (["a ", "b"], "a b"),
        (A, "a"),
        ([{"type": "output_text", "text": "a"}], "a"),
        ([{"type": "refusal", "refusal": "No."}], "No."),
        # Mistral; Anthropic
        ([{"type": "thinking", "thinking": [A]}, A], "<think>\na\n</think>\n\na"),
        ([{"type": "thinking", "thinking": "a", "signature": "x"}, A], "<think>\na\n</think>\n\na"),
    ],
)
def test_a_content_may_be_parts_or_nothing(content: Any, text: str) -> None:
    assert read(said(content)).text == text


@pytest.mark.parametrize("content", [3, [3], [None, 3], {"type": "image_url"}, [[{"a": "b"}]]])
def test_another_content_is_none(content: Any) -> None:
    with pytest.raises(TypeError):
        read(said(content))


SEARCH = '\n<tool_call>\n{"name": "search", "arguments": {"query": "a"}}\n</tool_call>'


@pytest.mark.parametrize(
    "message",
    [
        {
            "tool_calls": [
                {"id": "x", "type": "function", "function": {"arguments": '{"query": "a"}'}}
            ]
        },
        {"tool_calls": [{"id": None, "index": 0, "function": {"arguments": {"query": "a"}}}]},
        {"tool_calls": None, "function_call": {"arguments": '{"query": "a"}'}},
        {"tool_calls": [], "function_call": {"arguments": {"query": "a"}}},
    ],
)
def test_calls_are_read_in_all_spellings(message: dict[str, Any]) -> None:
    calls = message["tool_calls"]
    (calls[0]["function"] if calls else message["function_call"])["name"] = "search"
    choice = said(None, "tool_calls", message=message)
    turn = read_completion({"choices": [choice]}, ())
    assert turn.text == SEARCH
    (call,) = make_dialect("tool-calls").parse(turn.text).calls
    assert (call.tool, call.arguments, call.problem) == ("search", {"query": "a"}, "")
    choice = said("Well.", "tool_calls", message={**message, "reasoning": "Hm."})
    turn = read_completion({"choices": [choice]}, ())
    assert turn.text == f"<think>\nHm.\n</think>\n\nWell.{SEARCH}"


@pytest.mark.parametrize("arguments", [None, "", "  ", {}])
def test_a_call_without_arguments_has_none(arguments: Any) -> None:
    message = {"tool_calls": [{"function": {"name": "search", "arguments": arguments}}]}
    turn = read_completion({"choices": [said("", message=message)]}, ())
    assert '"arguments": {}}' in turn.text


def test_a_call_whose_query_holds_marks_goes_both_ways() -> None:
    query = "what do </tool_call> and </think> mean"
    message = {"tool_calls": [{"function": {"name": "search", "arguments": {"query": query}}}]}
    turn = read_completion({"choices": [said(None, "tool_calls", message=message)]}, ()).text
    result = Messages("found", [{"role": "tool", "content": "found"}])
    *_, assistant, tool = request_messages(["q", f"<think> <tool_call> </think>{turn}", result])
    (sent,) = assistant["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"query": query}
    assert assistant["content"] == "<think> <tool_call> </think>"
    assert tool["tool_call_id"] == sent["id"]


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 7}}, (5, 7)),
        ({"usage": {"prompt_tokens": 5.0, "completion_tokens": 7}}, (5, 7)),
        ({"usage": {"prompt_tokens": 5}}, (5, 0)),
        ({"usage": {"prompt_tokens": None, "completion_tokens": "7"}}, (0, 0)),
        ({"usage": {"prompt_tokens": -5, "completion_tokens": float("nan")}}, (0, 0)),
        ({"usage": {"prompt_tokens": float("inf"), "completion_tokens": 10**400}}, (0, 0)),
        ({"usage": None}, (0, 0)),
        ({"usage": [1]}, (0, 0)),
        ({}, (0, 0)),
    ],
)
def test_tokens_that_nobody_counted_are_none(usage: Any, counts: tuple[int, int]) -> None:
    turn = read(said("a"), **usage)
    assert (turn.prompt_tokens, turn.tokens) == counts


@pytest.mark.parametrize(
    "finish",
    ["length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded"],
)
def test_a_turn_cut_off_is_truncated(finish: str) -> None:
    turn = read(said("<search> a", finish))
    assert (turn.text, turn.truncated) == ("<search> a", True)


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


FULL = {
    "OpenAI": error(
        "This model's maximum context length is 4097 tokens. However, you requested 4120 tokens "
        "(3120 in the messages, 1000 in the completion).",
        param="messages",
        code="context_length_exceeded",
    ),
    "OpenAI, by code": error("Too long.", code="context_length_exceeded"),
    "vLLM": {
        "object": "error",
        "message": "This model's maximum context length is 16384 tokens. However, you requested "
        "19591 tokens (9591 in the messages, 10000 in the completion).",
        "code": 400,
    },
    "vLLM, max_tokens": error(
        "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context "
        "length is 4096 tokens and your request has 2778 input tokens.",
        code=400,
    ),
    "vLLM, prompt": error(
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096."
    ),
    "vLLM, what is left": {"message": "max_tokens must be at least 1, got -186.", "code": 400},
    "SGLang": {
        "object": "error",
        "message": "The input (61709 tokens) is longer than the model's context length (40960 "
        "tokens).",
    },
    "SGLang, sum": {
        "message": "Requested token count exceeds the model's maximum context length of 4096."
    },
    "SGLang, memory": {
        "message": "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."
    },
    "llama.cpp": error(
        "the request exceeds the available context size. try increasing the context size or enable "
        "context shift",
        type="exceed_context_size_error",
    ),
    "llama-cpp-python": {"detail": "Requested tokens (2285) exceed context window of 2048"},
    "TGI": {
        "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. "
        "Given: 1244 `inputs` tokens and 1000 `max_new_tokens`",
        "error_type": "validation",
    },
    "TGI, inputs": {
        "error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1168"
    },
    "Ollama": error("the input length exceeds the context length"),
    "Ollama, runner": {"error": "input exceeds context length"},
    "LM Studio": {
        "error": "The number of tokens to keep from the initial prompt is greater than the context "
        "length (n_keep: 13055>= n_ctx: 4096)."
    },
    "LM Studio, older": {
        "error": "Trying to keep the first 15857 tokens when context the overflows. However, the "
        "model is loaded with context length of only 7866 tokens"
    },
    "LM Studio, newer": {"error": "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)"},
    "Anthropic": error("prompt is too long: 200001 tokens > 200000 maximum"),
    "Anthropic, sum": error("input length and `max_tokens` exceed context limit: 188240 + 21333"),
    "xAI": {
        "error": "This model's maximum prompt length is 131072 but the request contains 140000"
    },
    "Gemini": error(
        "The input token count (582632) exceeds the maximum number of tokens allowed (131072)."
    ),
    "OpenRouter": error(
        "Provider returned error",
        metadata={"raw": '{"message":"This model\'s maximum context length is 8192 tokens'},
    ),
}


@pytest.mark.parametrize("reply", FULL.values(), ids=FULL)
def test_a_full_context_is_known_by_the_words_of_each_server(reply: Any) -> None:
    assert says_context_is_full(json.dumps(reply))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[" * 100_000,
        "<html>bad gateway</html>",
        error("no such field", param="maximum context length"),
        error("bad", request="what is a maximum context length?"),
        {"error": "Rate limit reached: tokens per minute, limit 30000, requested 40000"},
        error("max_tokens must be at least 1, got 0."),
        {"error": "Input validation error: `max_new_tokens` must be <= 192"},
        {"error": {"message": 5, "code": None}},
    ],
)
def test_another_error_is_none_of_a_full_context(body: Any) -> None:
    assert not says_context_is_full(body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": 401}, "choices": []}, 401),
        ({"error": "no"}, 500),
        ({"error": {"code": "rate_limit"}}, 500),
        ({"error": {"code": 7}}, 500),
        ({"choices": [{"error": {"code": 502, "message": "gone"}, "finish_reason": "error"}]}, 502),
    ],
)
def test_an_error_with_status_200_is_one(reply: Any, status: int) -> None:
    found = error_of(reply)
    assert found is not None and found[0] == status and "error" in json.loads(found[1])


@pytest.mark.parametrize("reply", [{"choices": [{"message": {}}], "error": None}, [], 3, None, {}])
def test_a_reply_without_an_error_has_none(reply: Any) -> None:
    assert error_of(reply) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["stop", "</search>", "<search>", "<think>", "</think>", 10**400, 1e999]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["text", "type", "thinking", "name", "function", "message", "code", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
PARTS = (
    "content reasoning reasoning_content reasoning_details thinking refusal tool_calls "
    "function_call"
).split()


@settings(max_examples=300)
@given(
    message=JSON | st.dictionaries(st.sampled_from(PARTS), JSON),
    choice=st.dictionaries(
        st.sampled_from(["finish_reason", "stop_reason", "matched_stop", "error", "stop_sequence"]),
        JSON,
    ),
    body=st.dictionaries(st.sampled_from(["usage", "error", "object"]), JSON),
)
def test_whatever_is_replied_is_a_turn_or_a_failed_episode(
    message: Any, choice: Any, body: Any
) -> None:
    reply = {**body, "choices": [{**choice, "message": message}]}
    text = json.dumps(reply)

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text=text)

    agent = EndpointAgent(
        EndpointOptions(url="http://endpoint/v1", retries=0, prompt_price=1.0),
        "m",
        stop=STOP,
        transport=httpx2.MockTransport(answer),
        sleep=lambda _: None,
    )
    try:
        (found,) = agent.act([("q",)])
    except AgentUnusableError as error:
        assert "status 4" in str(error)
        return
    assert isinstance(found.text, str) and isinstance(found.error, str)
    assert 0 <= found.tokens <= 10**9 and 0 <= found.cost < math.inf
    assert sum(found.text.count(mark) for mark in STOP) <= text.count("search>") + 1


@given(JSON)
def test_whatever_an_error_holds_it_is_read(body: Any) -> None:
    assert says_context_is_full(json.dumps(body)) in (True, False)
    error_of(body)
