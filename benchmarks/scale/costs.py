"""What the stages of a step cost: fitted to this machine, or by arithmetic for GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from at2po_agents.policy.sizes import Decoder
from benchmarks.speed.step_cost import Work, flops


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of everything that takes time in a step; by default only tools take any.

    Attributes:
        decode_step: Of a step of the engine, whatever is in its batch.
        decode_token: Of each sequence in the batch of such a step.
        decode_pair: Of each token that these sequences attend to.
        prefill_token: Of each token whose keys and values are computed before its turn.
        prefill_pair: Of each token that these attend to.
        turn: Of the host after each turn, which the engine waits for.
        train_token: Of each token of an update, all its passes together.
        train_pair: Of each token that these attend to.
        train_logit: Of each of them at which the vocabulary is computed.
        optimizer: Of an optimizer step, divided by the ranks.
        exchanged: Bytes of weights and gradients that a rank exchanges per pass.
        link: Bytes per second of a rank among those of its node.
        network: Bytes per second between nodes, all connections of a node together.
        node: Ranks per node.
        hop: Seconds per pass for each further rank in the ring.
        overlap: Share of the computing that an exchange can hide behind, in [0, 1].
        publish: Seconds until new weights are ready for the collectors.
        load: Seconds in which a collector takes them.
        switch: Seconds each time that a device changes between collecting and learning.
    """

    decode_step: float = 0.0
    decode_token: float = 0.0
    decode_pair: float = 0.0
    prefill_token: float = 0.0
    prefill_pair: float = 0.0
    turn: float = 0.0
    train_token: float = 0.0
    train_pair: float = 0.0
    train_logit: float = 0.0
    optimizer: float = 0.0
    exchanged: float = 0.0
    link: float = 1.0
    network: float = 1.0
    node: int = 8
    hop: float = 0.0
    overlap: float = 0.0
    publish: float = 0.0
    load: float = 0.0
    switch: float = 0.0

    def training(self, work: Work) -> float:
        """Seconds of one rank for its part of an update, but for what ranks exchange."""
        return (
            work.tokens * self.train_token
            + work.pairs * self.train_pair
            + work.logits * self.train_logit
        )

    def exchange(self, ranks: int) -> float:
        """Seconds in which ranks exchange the weights and gradients of one pass.

        Source: Patarasuk and Yuan (2009), Bandwidth optimal all-reduce algorithms for clusters of
        workstations: a ring over n ranks moves (n - 1) / n of the bytes through each of them, in
        n - 1 hops. Between nodes it has the speed of the slower connection.
        """
        speed = self.link if ranks <= self.node else min(self.link, self.network)
        return (ranks - 1) / ranks * self.exchanged / speed + (ranks - 1) * self.hop


def fitted(fits: Mapping[str, Any], hop: float = 0.0) -> Costs:
    """Return what `benchmarks.speed.scaling` measured, in seconds.

    Args:
        fits: Its fits of rollout and update.
        hop: Seconds per exchange for each further rank, which it does not measure.
    """
    rollout, update = (
        {name: cost / 1e6 for name, cost in fits[part]["microseconds_per"].items()}
        for part in ("rollout", "update")
    )
    return Costs(
        decode_step=rollout["engine_steps"],
        decode_token=rollout["sampled"],
        decode_pair=rollout["rollout_pairs"],
        prefill_token=rollout["prefilled"],
        prefill_pair=rollout["rollout_pairs"],
        turn=rollout["turns"],
        train_token=update["trained"],
        train_pair=update["trained_pairs"],
        train_logit=update["sampled"],
        optimizer=update["optimizer_steps"],
        hop=hop,
    )


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU and its connections; figures of the maker, nothing measured by us.

    Attributes:
        flops: Dense bf16 operations per second. Source: data sheet of H100 SXM.
        memory: Bytes per second of its memory. Source: as above.
        link: Bytes per second to the others of its node, one way. Source: NVLink 4, as above.
        network: Bytes per second to other nodes: one port of 400 Gb/s each. Source: data sheet of
            DGX H100.
        node: GPUs per node. Source: as above.
    """

    flops: float = 989e12
    memory: float = 3.35e12
    link: float = 450e9
    network: float = 50e9
    node: int = 8


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What decides about the times on GPUs and is not measured here: assumptions, all of them.

    Attributes:
        train_use: Share of the operations per second that training attains. Between 0.38 and 0.43
            were reported for Llama 3 405B on H100s (arXiv 2407.21783, Table 4).
        prefill_use: The same of prefill, and of what decoding computes.
        decode_use: Share of the memory's speed that reading weights, keys and values attains.
        link_use: Share of a connection's speed that collective operations attain.
        step_overhead: Seconds of an engine's step beyond the GPU's work: scheduling, launching.
        turn_overhead: Seconds of the host per turn: text, environment, the next request.
        hop: Seconds of latency per rank in the ring and operation.
        overlap: Share of the computing that an exchange can hide behind: FSDP fetches the next
            layer's weights while one is computed.
        switch: Seconds to put an engine to sleep or wake it.
        handover: Bytes per second at which weights go through the host's memory, to and from it.
        recompute: Forward passes that the backward pass repeats to save memory.
    """

    train_use: float = 0.40
    prefill_use: float = 0.50
    decode_use: float = 0.60
    link_use: float = 0.80
    step_overhead: float = 3e-3
    turn_overhead: float = 5e-4
    hop: float = 5e-6
    overlap: float = 1.0
    switch: float = 1.0
    handover: float = 5e9
    recompute: float = 1.0


def on_gpus(
    model: Decoder,
    mini_batches: int,
    *,
    packed: bool = True,
    gpu: Gpu = Gpu(),  # noqa: B008 - immutable
    assumed: Assumptions = Assumptions(),  # noqa: B008 - immutable
) -> Costs:
    """Return what stages cost on GPUs, by arithmetic from sizes, speeds and assumptions.

    Decoding reads all weights once per step, and keys and values once per sequence; both and its
    matrix products are added up, as if none ran beside another. FSDP gathers bf16 weights for every
    forward and backward pass and sums float32 gradients; the optimizer reads and writes weights and
    moments in float32. Weights go to collectors through the host's memory.

    Args:
        model: The policy.
        mini_batches: Optimizer steps per update.
        packed: Whether the first mini-batch reads its old log-probabilities off its own forward
            pass, as our learner does, so that only the others need one more.
        gpu: The hardware.
        assumed: Everything else.
    """
    whole = model.weights + model.hidden * model.vocabulary  # the embedding is tied to the head
    compute = gpu.flops * assumed.prefill_use
    memory = gpu.memory * assumed.decode_use
    kept = 2 * 2 * model.layers * model.kv_heads * model.head_dim  # bytes of a token's k and v
    old = (mini_batches - 1) / mini_batches if packed else 1.0
    # Forward and backward are 1 + 2 passes; each pass with gradients gathers twice and sums once.
    passes = (3 + assumed.recompute + old) / (gpu.flops * assumed.train_use)
    gathers, sums = 2 + old, 1
    operations = model.layers * (gathers + sums)
    return Costs(
        decode_step=assumed.step_overhead + 2 * whole / memory,
        decode_token=flops(model, Work(1, 0, 1)) / compute,
        decode_pair=kept / memory,
        prefill_token=flops(model, Work(1, 0, 0)) / compute,
        prefill_pair=flops(model, Work(0, 1, 0)) / compute,
        turn=assumed.turn_overhead,
        train_token=flops(model, Work(1, 0, 0)) * passes,
        train_pair=flops(model, Work(0, 1, 0)) * passes,
        train_logit=flops(model, Work(0, 0, 1)) * passes,
        optimizer=28 * whole / memory,  # reads weight, gradient, two moments; writes all but one
        exchanged=(2 * gathers + 4 * sums) * whole,
        link=gpu.link * assumed.link_use,
        network=gpu.network * gpu.node * assumed.link_use,
        node=gpu.node,
        hop=assumed.hop * operations,
        overlap=assumed.overlap,
        publish=2 * whole / assumed.handover,
        load=2 * whole / assumed.handover,
        switch=assumed.switch,
    )
