"""A tokenizer that cannot carry a dialect is refused, whatever the dialect."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

from at2po_agents.chat_template import QWEN3_TEMPLATE, ChatTemplateError
from at2po_agents.errors import TokenizerError
from at2po_agents.tokens import check_dialect
from at2po_envs.dialects import At2poTags, SearchR1Tags, ToolCalls
from at2po_envs.dialects.raw_text import RawText
from at2po_envs.tools import SEARCH, ToolSpec
from tests.at2po_agents.test_chat_template import make_tokenizer

DIALECTS = (At2poTags(), At2poTags("brief"), SearchR1Tags(), SearchR1Tags("brief"), ToolCalls())


def special(*tags: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tags)})
    return tokenizer


@pytest.mark.parametrize("dialect", [*DIALECTS, RawText()])
def test_a_tokenizer_that_fits_is_taken(dialect: Any) -> None:
    check_dialect(dialect, make_tokenizer())
    tokenizer = make_tokenizer()
    # As words of the vocabulary tags are welcome.
    tags = ("<search>", "</search>", "<answer>", "</answer>", "<result>")
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    check_dialect(dialect, tokenizer)
    check_dialect(dialect, make_tokenizer(eos="<|endoftext|>"))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("tag", ["<think>", "</think>", "</answer>"])
def test_tags_that_decoding_loses_are_refused_in_every_dialect(dialect: Any, tag: str) -> None:
    with pytest.raises(TokenizerError, match=f"loses {tag};.*add_tokens, not add_special_tokens"):
        check_dialect(dialect, special(tag))


def test_tags_of_calls_are_refused_by_the_dialects_that_have_them() -> None:
    tags = special("<search>", "</search>")
    for dialect in (At2poTags(), At2poTags("brief"), SearchR1Tags()):
        with pytest.raises(TokenizerError, match="loses </search>, <search>;"):
            check_dialect(dialect, tags)
    check_dialect(ToolCalls(), tags)
    with pytest.raises(TokenizerError, match="loses <tool_call>;"):
        check_dialect(ToolCalls(), special("<tool_call>"))
    spec = ToolSpec("ask_me", "Asks.", SEARCH.parameters)
    with pytest.raises(TokenizerError, match="loses </ask_me>;"):
        check_dialect(At2poTags("tools", (SEARCH, spec)), special("</ask_me>"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_template_without_an_end_of_turn_is_refused_in_every_dialect(dialect: Any) -> None:
    tokenizer = make_tokenizer(template=QWEN3_TEMPLATE.replace("<|im_end|>", "<end>"))
    with pytest.raises(ChatTemplateError, match="to end a turn with a special token"):
        check_dialect(dialect, tokenizer)


def test_a_template_that_refuses_the_prompt_is_refused_before_the_first_one() -> None:
    refusing = "{{ raise_exception('System role not supported') }}"
    template = "{%- if messages[0].role == 'system' %}" + refusing + "{%- endif %}" + QWEN3_TEMPLATE
    tokenizer = make_tokenizer(template=template)
    with pytest.raises(ChatTemplateError, match="System role not supported; give another"):
        check_dialect(At2poTags(), tokenizer)
    check_dialect(SearchR1Tags(), tokenizer)  # asks as the user
