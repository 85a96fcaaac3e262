"""vLLM takes seconds to start, so the tests of a module share one for as long as they can."""

from __future__ import annotations

from typing import Any

from at2po_agents.engines import Engine, EngineStats, make_engine
from at2po_agents.engines.turns import Vocabulary
from at2po_agents.errors import EngineBusyError, EngineUnavailableError


class TakesOver:
    """Makes engines one after another; one for the same model takes over the last one's vLLM."""

    def __init__(self) -> None:
        self._wanted: object = None
        self.engine: Any = None

    def __call__(
        self, model: Any, tokenizer: Any, *, max_batch: int = 64, **options: Any
    ) -> Engine:
        ends = Vocabulary(model, tokenizer).ends
        shape = (model.config.to_json_string(), model.dtype, ends, len(tokenizer))
        if self._take_over((*shape, max_batch, options), model):
            return self.engine  # type: ignore[no-any-return]
        self.close()
        self._wanted = (*shape, max_batch, options)
        self.engine = make_engine(
            "vllm",
            model,
            tokenizer,
            max_batch=max_batch,
            options={"cache_bytes": 1 << 26, **options},
        )
        return self.engine  # type: ignore[no-any-return]

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()

    def _take_over(self, wanted: object, model: Any) -> bool:
        if self._wanted != wanted:
            return False
        try:
            self.engine.load_weights(model.state_dict())
        except (EngineBusyError, EngineUnavailableError):
            return False
        self.engine.stats = EngineStats()
        return True
