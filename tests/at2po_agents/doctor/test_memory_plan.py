"""The memory plan: settings, what fits, which changes make it fit."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from at2po_agents.config.train import TrainConfig, parse_config
from at2po_agents.doctor.memory.changes import ORDER, cheapest_changes, fits
from at2po_agents.doctor.memory.estimate import Estimate, estimates
from at2po_agents.doctor.memory.learner_terms import offloaded_terms
from at2po_agents.doctor.memory.plan import Gpus, Plan, parse_plan
from at2po_agents.doctor.memory.terms import ALWAYS, GIB, UPDATE, Term
from at2po_agents.errors import ConfigError
from at2po_agents.policy.sizes import SIZES
from at2po_agents.settings import parse_options

QWEN3_4B, QWEN3_32B = SIZES["Qwen3-4B"], SIZES["Qwen3-32B"]
SWITCHES = ("gradient_checkpointing", "offload", "reference")


def gib(plan: Plan, name: str, role: int = 0) -> float:
    """Return a term of a Qwen3-4B plan in GiB."""
    terms = {term.name: term.size for term in estimates(plan, QWEN3_4B)[role].terms}
    return terms[name] / GIB


def names(plan: Plan, role: int = 0) -> set[str]:
    return {term.name for term in estimates(plan, QWEN3_4B)[role].terms}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of any settings on one to 64 GPUs."""
    gpus = Gpus(draw(st.sampled_from([1, 2, 8])), draw(st.sampled_from([1, 2, 8])), 40)
    settings: dict[str, Any] = {name: draw(st.booleans()) for name in SWITCHES}
    settings["colocate"] = gpus.total == 1 or draw(st.booleans())
    settings["engine"] = draw(st.sampled_from(["vllm", "transformers"]))
    settings["dtype"] = draw(st.sampled_from(["bfloat16", "float32"]))
    settings["lora"] = draw(st.sampled_from([0, 8]))
    return Plan(gpus=str(gpus), **settings)


@given(
    st.builds(
        Gpus, st.integers(1, 99), st.integers(1, 99), st.integers(1, 4000).map(lambda n: n / 4)
    )
)
def test_gpus_are_read_as_they_are_written(gpus: Gpus) -> None:
    assert Gpus.parse(str(gpus)) == gpus


def test_gpus_in_one_machine_and_in_several() -> None:
    assert Gpus.parse("1x24GB") == (1, 1, 24.0)
    assert Gpus.parse("4x8x80gb").total == 32
    for wrong in ("24GB", "8x80", "0x24GB", "2x0x24GB", "1x0GB", "8 x 80GB"):
        with pytest.raises(ConfigError, match="such as 8x80GB"):
            Gpus.parse(wrong)


def test_settings_are_pairs_and_switches() -> None:
    words = "model=Qwen/Qwen3-4B gpus=2x24GB lora=8 offload=on colocate=off context=4096"
    assert parse_plan(parse_options(words.split())) == Plan(
        model="Qwen/Qwen3-4B", gpus="2x24GB", lora=8, offload=True, colocate=False, context=4096
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("gpu=1x24GB", "did you mean 'gpus'"),
        ("gpus=1x" + "9" * 400 + "GB", "expected GPUs and the memory of each"),
        ("gpus=1x24GB token_buget=1", "did you mean 'token_budget'"),
        ("gpus=1x24GB dtype=float16", "'bfloat16' or 'float32'"),
        ("gpus=1x24GB offload=perhaps", "offload: expected true or false"),
        ("gpus=1x24GB lora=-1", "lora: expected a number of at least 0"),
        ("gpus=1x24GB token_budget=0", "token_budget: expected a number of at least 1"),
        ("gpus=1x24GB colocate=off", "say colocate=on"),
        (
            "gpus=2x24GB colocate=off rollout_workers=2",
            "expected GPUs to generate and others to learn",
        ),
        ("gpus=2x24GB rollout_workers=1", "say colocate=off"),
    ],
)
def test_wrong_settings_are_named(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_plan(parse_options(words.split()))


def test_without_gpus_those_of_this_machine_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 24 * GIB

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda place: Properties)
    assert parse_plan({}).machines == Gpus(1, 2, 24)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="gpus=1x24GB"):
        parse_plan({})


def test_ranks_share_what_fsdp_shards() -> None:
    plan, count = Plan(gpus="2x8x80GB"), QWEN3_4B.parameters / GIB
    assert gib(plan, "float32 shards") == pytest.approx(4 * count / 16)
    assert gib(plan, "gradient shards") == pytest.approx(4 * count / 16)
    assert gib(plan, "AdamW's moments") == pytest.approx(8 * count / 16)
    assert gib(plan, "gathered root group") == pytest.approx(2 * 388_956_160 / GIB, rel=1e-4)
    (estimate,) = estimates(plan, QWEN3_4B)
    assert estimate.count == 16 and "root" in estimate.totals


def test_gpus_apart_learn_or_generate() -> None:
    plan = Plan(gpus="8x80GB", colocate=False, rollout_workers=2)
    learn, generate = estimates(plan, QWEN3_4B)
    assert (learn.count, generate.count) == (6, 2)
    assert gib(plan, "float32 shards") == pytest.approx(4 * QWEN3_4B.parameters / 6 / GIB)
    assert set(generate.totals) == {"rollout"} and "rollout" not in learn.totals


def test_an_engine_asleep_needs_no_memory_for_weights_and_keys() -> None:
    (estimate,) = estimates(Plan(gpus="1x80GB"), QWEN3_4B)
    asleep = {"engine's weights", "keys and values", "engine's pass"}
    assert {t.name for t in estimate.terms if t.phases == {"rollout"}} == asleep
    assert estimate.peak == max(estimate.totals.values()) < sum(t.size for t in estimate.terms)
    shared = Plan(gpus="1x80GB", engine="transformers")
    assert "engine's weights" not in names(shared)
    assert "engine's weights" in names(replace(shared, gpus="2x80GB"))


def test_keys_and_values_are_those_of_the_sequences_asked_for() -> None:
    plan = Plan(gpus="1x80GB", sequences=4, context=1000)
    # 36 layers of 8 heads of 128 numbers in bfloat16, keys and values.
    assert gib(plan, "keys and values") == pytest.approx(4 * 1000 * 36 * 8 * 128 * 2 * 2 / GIB)


def test_adapters_alone_are_trained() -> None:
    plan = Plan(gpus="1x80GB", lora=16, reference=True)
    adapters = QWEN3_4B.adapter_parameters(16) / GIB
    assert gib(plan, "weights") == pytest.approx(2 * (QWEN3_4B.parameters / GIB + adapters))
    assert gib(plan, "float32 masters") == pytest.approx(4 * adapters)
    assert gib(plan, "AdamW's moments") == pytest.approx(8 * adapters)
    assert "reference policy" not in names(plan)
    assert "reference policy" in names(replace(plan, lora=0))


def test_what_is_offloaded_is_in_the_memory_of_the_cpu() -> None:
    plan = Plan(gpus="4x8x80GB", offload=True)
    gone = names(replace(plan, offload=False)) - names(plan)
    assert gone == {"float32 shards", "gradient shards", "AdamW's moments", "AdamW's step"}
    sizes = {term.name: term.size for term in offloaded_terms(plan, QWEN3_4B)}
    # A quarter of all shards lies in each of the four machines.
    assert sizes["float32 weights"] == pytest.approx(QWEN3_4B.parameters, abs=1)
    assert sizes["AdamW's moments"] == pytest.approx(2 * QWEN3_4B.parameters, abs=2)
    assert not list(offloaded_terms(replace(plan, offload=False), QWEN3_4B))


def test_totals_add_up_what_is_there_at_a_time() -> None:
    here, there = frozenset({"rollout"}), frozenset({"layers", "step"})
    terms = (
        Term("a", 1, "", ALWAYS),
        Term("b", 10, "", here),
        Term("c", 100, "", there),
        Term("d", 1000, "", UPDATE),
    )
    estimate = Estimate("learn", 1, terms, 1101)
    assert estimate.totals == {"rollout": 11, "layers": 1101, "step": 1101}
    assert estimate.peak == 1101 and estimate.fits
    assert not replace(estimate, memory=1100).fits


@given(plans(), st.sampled_from(["token_budget", "sequences", "questions", "context"]))
def test_more_never_takes_less(plan: Plan, name: str) -> None:
    more = replace(plan, **{name: 2 * getattr(plan, name)})
    for before, after in zip(estimates(plan, QWEN3_4B), estimates(more, QWEN3_4B), strict=True):
        assert all(before.totals[phase] <= after.totals[phase] for phase in before.totals)


@given(plans())
def test_each_saving_saves(plan: Plan) -> None:
    for name in ("gradient_checkpointing", "offload"):
        without, saving = (replace(plan, **{name: value}) for value in (False, True))
        for before, after in zip(
            estimates(without, QWEN3_4B), estimates(saving, QWEN3_4B), strict=True
        ):
            assert after.peak <= before.peak


@given(plans(), st.sampled_from([QWEN3_4B, QWEN3_32B]), st.sampled_from([12, 24, 48, 80]))
def test_changes_make_a_plan_fit_and_none_is_idle(plan: Plan, sizes: Any, memory: int) -> None:
    plan = replace(plan, gpus=str(plan.machines._replace(gib=memory)))
    assume(not fits(plan, sizes))
    found = cheapest_changes(plan, sizes)
    if found is None:
        return
    changed = replace(plan, **found)
    assert fits(changed, sizes)
    for name in found:
        assert not fits(replace(changed, **{name: getattr(plan, name)}), sizes)
    assert list(found) == [name for name in ORDER if name in found]


def test_changes_are_tried_in_order() -> None:
    whole = Plan(gpus="1x80GB", sequences=4, offload=True)
    assert cheapest_changes(whole, QWEN3_4B) == {"gradient_checkpointing": True}
    small = Plan(gpus="1x24GB", gradient_checkpointing=True, token_budget=8192, sequences=1)
    assert cheapest_changes(small, QWEN3_4B) == {"offload": True}
    found = cheapest_changes(small, QWEN3_4B, without=("offload",))
    assert found == {"lora": 16}
    found = cheapest_changes(small, QWEN3_4B, without=("offload", "lora"))
    assert found is not None and list(found) == ["gpus"]


def test_too_small_a_gpu_cannot_be_helped() -> None:
    # Each engine holds all weights of 61 GiB, however many GPUs there are.
    assert cheapest_changes(Plan(gpus="1x24GB"), QWEN3_32B) is None


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_the_command_trains_with_the_plan(engine: Any) -> None:
    plan = Plan(
        model="Qwen/Qwen3-4B",
        gpus="1x80GB",
        engine=engine,
        gradient_checkpointing=True,
        context=4096,
    )
    words = shlex.split(" ".join(plan.options(cache_bytes=12345)))
    config = parse_config(TrainConfig, words, prog="at2po train")
    assert (config.model.name, config.model.dtype) == (plan.model, plan.dtype)
    assert config.optim.token_budget == plan.token_budget
    assert config.optim.gradient_checkpointing == plan.gradient_checkpointing
    assert config.engine.name == plan.engine
    lengths = config.rollout.max_prompt_tokens, config.rollout.max_response_tokens
    assert sum(lengths) == plan.context
    if engine == "vllm":
        assert config.engine.options == {"cache_bytes": 12345, "max_model_len": 4096}
    else:
        assert config.engine.max_batch == plan.sequences


def test_the_command_says_what_is_spread() -> None:
    plan = Plan(gpus="2x8x80GB", lora=8, offload=True)
    config = parse_config(TrainConfig, shlex.split(" ".join(plan.options(1))), prog="at2po train")
    assert (config.lora.rank, config.optim.offload) == (8, True)
    cluster = config.cluster
    assert (cluster.rollout_workers, cluster.learner_workers, cluster.colocate) == (16, 16, True)
    assert (cluster.rollout_worker_gpus, cluster.learner_worker_gpus) == (0.5, 0.5)
    apart = Plan(gpus="8x80GB", colocate=False, rollout_workers=2).options(1)
    cluster = parse_config(TrainConfig, shlex.split(" ".join(apart)), prog="at2po train").cluster
    assert (cluster.rollout_workers, cluster.learner_workers, cluster.colocate) == (2, 6, False)
    assert (cluster.rollout_worker_gpus, cluster.learner_worker_gpus) == (1, 1)
