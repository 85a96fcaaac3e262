"""TRL's own multi-turn generation, `GRPOTrainer` with a tool, on a MiniWiki setting.

Imported only by a Python that has `trl` (see `benchmarks.speed.peers.rollouts`).
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset

# fmt: off
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found, import-untyped, unused-ignore]

# fmt: on
from at2po_envs.seeds import stable_hash
from at2po_envs.tools import ToolCall
from benchmarks.speed.rollout_ways import Setting, chosen, policy

# What the mini model was taught, as the chat template and the response template that TRL asks for:
# a prompt, turns with one search each, results. Ids are those of our own prompts and observations.
_CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
    "{% elif m.role == 'tool' %} <result>\n{{ m.content }}\n</result>"
    "{% else %}{{ m.content }}{% for call in m.tool_calls or [] %}{% set f = call.function %}"
    " <{{ f.name }}> {{ f.arguments | tojson }} </{{ f.name }}>{% endfor %}{% endif %}{% endfor %}"
)
_RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "\n",
    "fields": {
        "tool_calls": {
            "open": "<search>",
            "close_pattern": "</search>",
            "repeats": True,
            "content": "text",
            "transform": {
                "type": "function",
                "function": {"name": "search", "arguments": {"query": "{content}"}},
            },
        },
        "content": {"close_pattern": r"<\|endoftext\|>", "content": "text"},
    },
}


class TRLWay:
    """The generation of TRL's trainer, without its update."""

    def __init__(self) -> None:
        self.trainers: dict[str, Any] = {}
        self.context = 0  # tokens of all contexts handed to `generate`

    def measure(self, setting: Setting, number: int) -> dict[str, Any]:
        """Generate as a training step of the trainer would, up to its rewards."""
        if setting.name not in self.trainers:
            self.trainers[setting.name] = self._trainer(setting)
        trainer, env = self.trainers[setting.name]
        asked = chosen(env, setting, number)
        prompts = [
            [{"role": "user", "content": env.core.begin(question)[1]}]
            for question in asked
            for _ in range(setting.chains)
        ]
        tool = _search_tool(env)
        # As `_generate_and_score_completions` does before it generates.
        trainer._sync_tool_dicts = [{"search": tool} for _ in prompts]
        trainer._async_tool_dicts = [{} for _ in prompts]
        torch.manual_seed(stable_hash("rollout_speed", setting.name, number) % 2**63)
        self.context = 0
        start = time.perf_counter()
        given, _, mask, completions, *_ = trainer._generate(prompts)
        seconds = time.perf_counter() - start
        turns = sum(m["role"] == "assistant" for each in completions for m in each)
        return {
            "seconds": round(seconds, 4),
            "leaves": len(prompts),
            "turns": turns,
            "turns_per_leaf": round(turns / len(prompts), 3),
            "prompt": sum(map(len, given[:: setting.chains])),
            "sampled": sum(map(sum, mask)),
            "inserted": sum(len(row) - sum(row) for row in mask),
            "prefilled": self.context,
            "reused": 0,
        }

    def close(self) -> None:
        """Drop the trainers."""
        self.trainers.clear()

    def _trainer(self, setting: Setting) -> tuple[Any, Any]:
        model, tokenizer = policy(setting.model)
        env = setting.env()
        tokenizer.chat_template, tokenizer.response_template = _CHAT, _RESPONSE
        pieces = [tokenizer.decode([i]) for i in range(len(tokenizer))]
        ends = [i for i, piece in enumerate(pieces) if piece.endswith(env.core.dialect.stop)]
        # Turns end where ours do: the closing tags are single tokens of the mini model.
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]
        rows = [{"prompt": [{"role": "user", "content": "?"}]}] * setting.questions
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **row: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=tempfile.mkdtemp(),
                per_device_train_batch_size=setting.questions * setting.chains,
                num_generations=setting.chains,
                max_completion_length=setting.max_response_tokens,
                max_tool_calling_iterations=env.core.max_tool_calls,
                temperature=1.0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            tools=[_search_tool(env)],
        )
        single = trainer._generate_single_turn

        def counted(ids: Any, *args: Any, **options: Any) -> Any:
            self.context += sum(map(len, ids))
            return single(ids, *args, **options)

        trainer._generate_single_turn = counted
        return trainer, env


def _search_tool(env: Any) -> Any:
    def search(query: str) -> str:
        """Searches an encyclopedia and returns the passages that fit a query best.

        Args:
            query: What to search for.
        """
        return str(env.run_tools([ToolCall("search", {"query": query})])[0].text)

    return search
