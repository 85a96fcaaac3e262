from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from at2po_agents.policy.chat_template import (
    QWEN3_TEMPLATE,
    ChatTemplateError,
    check_chat_template,
    encode_reply,
    end_of_turn,
    render,
)
from at2po_agents.policy.encoding import check_dialect, encode_inserted, encode_prompt
from at2po_envs import State, ToolQA, ToolResult
from at2po_envs.dialects import At2poTags, Messages, SearchR1Tags, ToolCalls
from at2po_envs.question_sets.questions import Question

TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# Drops the thinking of every turn but the last, as many published templates do.
FORGETFUL = """
{%- for message in messages %}
    {%- set content = message.content if loop.last else message.content.split("</think>")[-1] %}
    {{- "<|im_start|>" + message.role + "\n" + content + "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\n" }}{%- endif %}
"""


def make_tokenizer(*, template=QWEN3_TEMPLATE, eos="<|im_end|>"):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([template, "Who wrote the film? The answer is: a page."], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    fast.chat_template = template
    return fast


TOKENIZER = make_tokenizer()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
DIALECT = ToolCalls()


def decode(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_the_template_renders_a_whole_conversation_to_the_letter():
    tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {
            "role": "assistant",
            "content": "<think>\nLook.\n</think>\n",
            "tool_calls": [
                {"function": {"name": "search", "arguments": {"query": "Ada é"}}},
                {"function": {"name": "search", "arguments": '{"query": "Bob"}'}},
            ],
        },
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "reasoning_content": "Know.", "content": "<answer>Ada</answer>"},
    ]
    assert render(TOKENIZER, talk, [tool], open_turn=True) == (
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist "
        "with the user query.\n\nYou are provided with function signatures within <tools></tools> "
        'XML tags:\n<tools>\n{"type": "function", "function": {"name": "search", "parameters": '
        '{"type": "object"}}}\n</tools>\n\nFor each function call, return a json object with '
        "function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nLook.\n</think>\n\n<tool_call>\n"
        '{"name": "search", "arguments": {"query": "Ada é"}}\n</tool_call>\n<tool_call>\n'
        '{"name": "search", "arguments": {"query": "Bob"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\nKnow.\n</think>\n\n<answer>Ada</answer><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(TOKENIZER, talk[1:2], open_turn=False) == "<|im_start|>user\nWho?<|im_end|>\n"
    assert render(TOKENIZER, talk[:2], open_turn=False).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?"
    )


PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=40)
TURN = st.one_of(PLAIN, PLAIN.map(lambda text: f"<think>\n{text}\n</think>\n\n{text}"))


@given(PLAIN, st.lists(st.tuples(TURN, st.lists(PLAIN, min_size=1, max_size=3)), max_size=3))
def test_prompt_turns_and_insertions_are_what_the_template_renders_of_the_whole(question, turns):
    prompt = DIALECT.prompt(question)
    ids, talk = encode_prompt(TOKENIZER, prompt), list(prompt.messages)
    for turn, texts in turns:
        # As the engine gives it: the ids of a turn end with the token that ended it.
        sampled = [*TOKENIZER.encode(turn, add_special_tokens=False), END]
        observation = DIALECT.render([ToolResult(True, text) for text in texts])
        ids += sampled + encode_inserted(TOKENIZER, observation, sampled)
        talk += [{"role": "assistant", "content": turn}, *observation.messages]
    assert decode(ids) == render(TOKENIZER, talk, prompt.tools, open_turn=True)


def test_a_turn_without_its_end_token_is_closed_first():
    observation = DIALECT.render([ToolResult(True, "found")])
    ended = encode_inserted(TOKENIZER, observation)
    assert decode(ended) == (
        "\n<|im_start|>user\n<tool_response>\nfound\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    word = TOKENIZER.encode("x", add_special_tokens=False)
    other = TOKENIZER.convert_tokens_to_ids("<|endoftext|>")
    assert encode_inserted(TOKENIZER, observation, [*word, END]) == ended
    for turn in (word, [*word, other], []):
        assert encode_inserted(TOKENIZER, observation, turn) == [END, *ended]


def test_an_episode_of_the_core_can_be_encoded():
    core = ToolQA(DIALECT, max_tool_calls=1)
    state, prompt = core.begin(Question("q", "Who?", ("Ada",)))
    call = '<tool_call>{"name": "search", "arguments": {"query": "Ada"}}</tool_call>'
    found = core.transition(state, call, [ToolResult(True, "Page 1: Ada")])
    over = core.transition(found.state, call)
    for text, expected in [
        (prompt, "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"),
        (found.observation, "\n<tool_response>\nPage 1: Ada\n</tool_response>"),
        (over.observation, "The limit of tool calls is reached"),
    ]:
        encoder = encode_prompt if text is prompt else encode_inserted
        assert expected in decode(encoder(TOKENIZER, text))
    kept = pickle.loads(pickle.dumps(copy.deepcopy(over.state)))
    assert isinstance(kept, State) and kept == over.state
    assert kept.turns[0].observation.messages == found.observation.messages


def test_plain_texts_are_encoded_as_before():
    assert decode(encode_prompt(TOKENIZER, "Who?")) == (
        "<|im_start|>system\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert decode(encode_inserted(TOKENIZER, " <result>", [1])) == " <result>"
    asked = decode(encode_prompt(TOKENIZER, SearchR1Tags("brief").prompt("Who?")))
    assert asked == "<|im_start|>user\nQuestion: Who?\n<|im_end|>\n<|im_start|>assistant\n"
    bare = make_tokenizer()
    bare.chat_template = None
    assert decode(encode_prompt(bare, SearchR1Tags("brief").prompt("Who?"))) == "Question: Who?\n"


def test_a_missing_template_is_named():
    bare = make_tokenizer()
    bare.chat_template = None
    for use in (check_chat_template, lambda t: encode_prompt(t, DIALECT.prompt("Who?"))):
        with pytest.raises(ChatTemplateError, match="with a chat template for chat messages"):
            use(bare)


def test_a_template_that_forgets_thinking_is_refused_with_the_fix():
    with pytest.raises(ChatTemplateError, match=r"keeps earlier turns.*'<think>.*QWEN3_TEMPLATE"):
        check_chat_template(make_tokenizer(template=FORGETFUL))


def test_a_reply_that_changes_the_turn_before_is_refused():
    template = QWEN3_TEMPLATE.replace(
        '{{- "<|im_start|>assistant\\n" }}\n        {%- if message',
        '{{- "<|im_start|>assistant\\n" + ("<think>\\n\\n</think>\\n\\n" if loop.last else "") }}\n'
        "        {%- if message",
    )
    assert template != QWEN3_TEMPLATE
    tokenizer = make_tokenizer(template=template)
    for use in (check_chat_template, lambda t: encode_reply(t, [{"role": "tool", "content": "x"}])):
        with pytest.raises(ChatTemplateError, match="keeps earlier turns"):
            use(tokenizer)


def test_the_templates_end_of_turn_is_found_whatever_ends_a_text():
    # Base models of Qwen2.5 and Qwen3: a text ends with another token than a turn.
    assert end_of_turn(TOKENIZER) == END
    base = make_tokenizer(eos="<|endoftext|>")
    assert base.eos_token_id != end_of_turn(base) == END
    check_chat_template(base)
    spaced = QWEN3_TEMPLATE.replace('{{- "<|im_end|>\\n" }}', '{{- " <|im_end|>\\n" }}')
    assert spaced != QWEN3_TEMPLATE
    assert end_of_turn(make_tokenizer(template=spaced)) == END


@pytest.mark.parametrize("end", ["", "\n", "<end>", "</s>"])
def test_a_template_that_ends_turns_without_a_special_token_is_refused(end):
    tokenizer = make_tokenizer(template=QWEN3_TEMPLATE.replace("<|im_end|>", end))
    for use in (check_chat_template, end_of_turn):
        with pytest.raises(ChatTemplateError, match="end a turn with a special token.*; add what"):
            use(tokenizer)


def test_messages_are_a_string_with_something_beside_it():
    prompt = DIALECT.prompt("Who?")
    assert isinstance(prompt, str) and prompt == str(prompt) and hash(prompt) == hash(str(prompt))
    for twin in (pickle.loads(pickle.dumps(prompt)), copy.deepcopy(prompt), copy.copy(prompt)):
        assert isinstance(twin, Messages) and twin == prompt
        assert (twin.messages, twin.tools) == (prompt.messages, prompt.tools)


@pytest.mark.parametrize(
    "content",
    [
        "{{ message.content | upper }}",
        "{{ message.content | reverse }}",
        "{{ message.content if message.role != 'system' else '' }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
    ],
)
def test_a_template_that_changes_or_loses_contents_or_fails_is_refused_at_start(content):
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        f"{content}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for dialect in (At2poTags(), ToolCalls()):
        with pytest.raises(ChatTemplateError, match="expected a chat template"):
            check_dialect(dialect, make_tokenizer(template=template))
