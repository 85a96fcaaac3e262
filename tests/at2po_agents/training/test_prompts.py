"""Prompts are checked before the first step, and never end a run in its midst."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import at2po_agents.training.prompts
from at2po_agents.config.train import RESUMABLE, TrainConfig, fingerprint, override
from at2po_agents.errors import ConfigError
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.policy.contents import as_content
from at2po_agents.policy.encoding import encode_prompt
from at2po_agents.training.prompts import askable
from at2po_agents.training.trainer import Trainer
from at2po_envs import ToolQA
from at2po_envs.dialects import At2poTags, ToolCalls
from at2po_envs.question_sets.questions import Question
from tests.at2po_agents.policy.test_chat_template import make_tokenizer
from tests.at2po_agents.training.runs import small

pytestmark = pytest.mark.filterwarnings("default")  # TensorBoard's own warnings are not ours


def world(*texts: str, dialect: Any = None) -> Any:
    dialect = dialect or At2poTags("brief")
    asked = [Question(f"q{number}", text, ("x",)) for number, text in enumerate(texts)]
    return SimpleNamespace(core=ToolQA(dialect), questions=asked)


TEXTS = ("Who?", "What is it? " * 600, "Where?", "\ufdfa" * 400, "When?")


def test_one_long_question_among_nine_is_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError) as caught:
        askable(world(*TEXTS), make_tokenizer(), max_prompt_tokens=500, overlong="error")
    message = str(caught.value)
    assert message.startswith("rollout.max_prompt_tokens: expected prompts of at most 500 ")
    assert "tokens, found 2 " in message
    assert "question 'q1' of " in message and "'q3' of " in message
    assert 'overlong_prompts = "drop"' in message


def test_or_it_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, env = make_tokenizer(), world(*TEXTS)
    limits: Any = {"max_prompt_tokens": 500, "overlong": "drop"}
    assert askable(env, tokenizer, **limits) == [0, 2, 4]
    assert "longer than 500 tokens: 2 longer: question 'q1' of" in caplog.text
    assert askable(env, tokenizer, **limits, count=2) == [0, 2]
    assert askable(env, tokenizer, **limits, count=1) == [0]  # nobody asks the others
    with pytest.raises(ConfigError, match="found 5 longer"):
        askable(env, tokenizer, max_prompt_tokens=3, overlong="drop")


@pytest.mark.parametrize("dialect", [At2poTags("brief"), At2poTags(), ToolCalls()])
def test_the_limit_is_exact(dialect: Any) -> None:
    tokenizer = make_tokenizer()
    text = "Who wrote é <|im_end|> \ufdfa " * 20
    env = world(text, dialect=dialect)
    tokens = len(encode_prompt(tokenizer, env.core.begin(env.questions[0])[1]))
    for longest, expected in ((tokens, [0]), (tokens + 1, [0])):
        assert askable(env, tokenizer, max_prompt_tokens=longest, overlong="error") == expected
    with pytest.raises(ConfigError, match=f"'q0' of {tokens};"):
        askable(env, tokenizer, max_prompt_tokens=tokens - 1, overlong="error")


def test_short_prompts_are_not_even_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, encoded = make_tokenizer(), []
    monkeypatch.setattr(
        at2po_agents.training.prompts, "encode", lambda _, text: encoded.append(text) or []
    )
    env = world(*["Who wrote the book?"] * 1000, "é" * 50, "Who? " * 500)
    askable(env, tokenizer, max_prompt_tokens=2000, overlong="error")
    assert len(encoded) == 1 and as_content(tokenizer, "Who? " * 500).strip() in encoded[0]


def test_a_run_refuses_a_long_prompt_before_it_samples_anything(tmp_path: Any) -> None:
    config = small(tmp_path / "run", **{"rollout.max_prompt_tokens": 20})
    with pytest.raises(ConfigError, match="expected prompts of at most 20 tokens"):
        Trainer(config)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    # The model's own context bounds a prompt, too: it holds 4096 tokens.
    with pytest.raises(ConfigError, match="expected prompts of at most 19 tokens"):
        Trainer(small(tmp_path / "run", **{"engine.options": {"max_model_len": 20}}))


def test_a_run_leaves_long_prompts_out_and_goes_on(tmp_path: Any) -> None:
    whole = Trainer(small(tmp_path / "whole", steps=0))
    lengths = [
        len(encode_prompt(whole.workers.rollout.tokenizer, whole.env.core.begin(q)[1]))  # type: ignore[attr-defined]
        for q in whole.env.questions
    ]
    limit = sorted(lengths)[-6]
    config = small(
        tmp_path / "run",
        steps=1,
        **{"eval.every": 0, "rollout.max_prompt_tokens": limit, "rollout.overlong_prompts": "drop"},
    )
    trainer = Trainer(config)
    kept = [number for number, tokens in enumerate(lengths) if tokens <= limit]
    assert trainer.asked == kept and 0 < len(kept) < len(lengths)
    trainer.run()
    row = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert row["rollout/overlong_prompts"] == len(lengths) - len(kept)


def test_leaving_questions_out_can_be_chosen_for_a_run_that_goes_on() -> None:
    configs = [
        override(TrainConfig(), {"rollout.overlong_prompts": choice})
        for choice in ("error", "drop")
    ]
    first, second = (fingerprint(config, RESUMABLE) for config in configs)
    assert first == second
