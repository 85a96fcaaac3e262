"""What is to be trained, with which settings and on which GPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from at2po_agents.doctor.memory.terms import GIB
from at2po_agents.engines import EngineName
from at2po_agents.errors import ConfigError
from at2po_agents.settings import Count, CountOrZero, Options, Settings, from_table

_GPUS = re.compile(r"(?:(\d+)x)?(\d+)x(\d+(?:\.\d+)?)Gi?B", re.IGNORECASE)
_PROMPT = 2000  # of the context; what TrainConfig takes by default


class Gpus(NamedTuple):
    """Equal GPUs in equal machines.

    Attributes:
        machines: Number of machines.
        each: GPUs of each machine.
        gib: Memory of each GPU in GiB; that is what makers of GPUs call GB.
    """

    machines: int
    each: int
    gib: float

    @classmethod
    def parse(cls, text: str) -> Gpus:
        """Read `1x24GB` (GPUs x memory) or `4x8x80GB` (machines x GPUs x memory).

        Raises:
            ConfigError: The text is neither, or a number in it is 0, or beyond all machines.
        """
        match = _GPUS.fullmatch(text)
        if not match or not all(0 < float(number or 1) < 1e9 for number in match.groups()):
            raise ConfigError(
                f"gpus: expected GPUs and the memory of each, such as 8x80GB, with the machines "
                f"before them where there are several, such as 4x8x80GB; found {text!r}"
            )
        machines, each, gib = match.groups()
        return cls(int(machines or 1), int(each), float(gib))

    @property
    def total(self) -> int:
        """GPUs of all machines."""
        return self.machines * self.each

    def __str__(self) -> str:
        machines = f"{self.machines}x" if self.machines > 1 else ""
        return f"{machines}{self.each}x{self.gib:g}GB"


def _present() -> str:
    """Describe the CUDA devices of this machine, the smallest of them standing for all."""
    import torch  # which takes seconds, and a plan that names its GPUs does not need it

    count = torch.cuda.device_count()
    if not count:
        raise ConfigError(
            "gpus: expected GPUs to plan for, found no CUDA device here; say which, such as "
            "gpus=1x24GB"
        )
    least = min(torch.cuda.get_device_properties(place).total_memory for place in range(count))
    return f"{count}x{least / GIB:.2f}GiB"


@dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """A training on GPUs, as far as it decides about memory."""

    model: str = "mini"
    """A folder, a name on the hub, or an embedded model."""
    gpus: str = field(default_factory=_present)
    """Such as `1x24GB`, `8x80GB` or `4x8x80GB`; by default those of this machine."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of weights and activations."""
    context: Count = 8192
    """Longest row in tokens: prompt and response."""
    token_budget: Count = 16384
    """Most tokens in one forward pass of the learner."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    lora: CountOrZero = 0
    """Rank of the adapters that are trained in place of all weights; 0 trains all weights."""
    offload: bool = False
    """Keep float32 weights, their gradients and AdamW's moments in the CPU's memory."""
    reference: bool = False
    """Whether a KL term needs the policy that the run started from."""
    engine: EngineName = "vllm"
    """What generates."""
    sequences: Count = 16
    """Sequences of the whole context that the engine must be able to hold at a time."""
    colocate: bool = True
    """Whether every GPU learns and generates in turn; else some learn and the others generate."""
    rollout_workers: CountOrZero = 0
    """GPUs that generate where `colocate` is off; 0 is half of them."""
    questions: Count = 64
    """Questions, and so trees, per step."""
    leaves: Count = 22
    """Leaves of a tree."""

    def __post_init__(self) -> None:
        """Check the division of the GPUs, too."""
        super().__post_init__()
        total = self.machines.total
        if self.colocate and self.rollout_workers:
            raise ConfigError(
                "rollout_workers: expected none apart with colocate=on, found "
                f"{self.rollout_workers}; say colocate=off, or leave rollout_workers out"
            )
        if not self.colocate and not 0 < self.generating < total:
            raise ConfigError(
                f"colocate: expected GPUs to generate and others to learn, found {self.gpus} with "
                f"rollout_workers={self.rollout_workers}; give more GPUs, or say colocate=on"
            )

    @property
    def machines(self) -> Gpus:
        """The GPUs, parsed."""
        return Gpus.parse(self.gpus)

    @property
    def generating(self) -> int:
        """GPUs that generate."""
        total = self.machines.total
        return total if self.colocate else self.rollout_workers or total // 2

    @property
    def learning(self) -> int:
        """GPUs that learn, the ranks of the learner."""
        total = self.machines.total
        return total if self.colocate else total - self.generating

    @property
    def shares_model(self) -> bool:
        """Whether the engine generates with the learner's own weights."""
        return self.engine == "transformers" and self.machines.total == 1

    @property
    def item(self) -> int:
        """Bytes of a number of weights and activations."""
        return {"bfloat16": 2, "float32": 4}[self.dtype]

    def options(self, cache_bytes: int) -> list[str]:
        """Return the plan as options of `at2po train`.

        Args:
            cache_bytes: Memory of the engine's keys and values.
        """
        words = [f"--model {self.model}", f"--model.dtype {self.dtype}"]
        prompt = min(_PROMPT, self.context // 4)
        words += [f"--rollout.max-prompt-tokens {prompt}"]
        words += [f"--rollout.max-response-tokens {self.context - prompt}"]
        words += [f"--optim.token-budget {self.token_budget}"]
        words += ["--optim.gradient-checkpointing"] * self.gradient_checkpointing
        words += [f"--lora.rank {self.lora}"] * (self.lora > 0)
        words += ["--optim.offload"] * self.offload
        words += [f"--engine {self.engine}"]
        if self.engine == "vllm":
            words += [f"--engine.options cache_bytes={cache_bytes} max_model_len={self.context}"]
        else:
            words += [f"--engine.max-batch {self.sequences}"]
        if self.machines.total > 1:
            words += [f"--cluster.rollout-workers {self.generating}"]
            words += [f"--cluster.learner-workers {self.learning}"]
            words += ["--cluster.colocate"] * self.colocate
            share = 0.5 if self.colocate else 1
            words += [
                f"--cluster.rollout-worker-gpus {share} --cluster.learner-worker-gpus {share}"
            ]
        return words


def parse_plan(options: Options) -> Plan:
    """Return the plan that KEY=VALUE pairs describe; `on` and `off` stand for true and false.

    Args:
        options: Fields of `Plan`; without `gpus` it is for the CUDA devices of this machine.

    Raises:
        ConfigError: An unknown key, a wrong value, or no GPUs here and none given.
    """
    switches = {"on": True, "off": False}
    return from_table(
        Plan, {key: switches.get(str(value), value) for key, value in options.items()}
    )
