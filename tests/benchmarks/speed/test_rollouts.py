"""The rollout benchmark: its ways collect the same, and peers are told apart."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from at2po_agents.engines import TransformersEngine
from at2po_agents.learner.logprobs import flat_logprobs
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.expansion import Chains
from benchmarks.environments.forced_turns import forced_env
from benchmarks.errors import EvaluationError
from benchmarks.speed import rollouts as rollout_speed
from benchmarks.speed.peers.rollouts import Peer
from benchmarks.speed.plain_generate import PlainEngine
from benchmarks.speed.rollout_ways import Setting, own_ways, policy
from benchmarks.speed.rollouts import RolloutSpeedConfig, measure, summary

OPTIONS = {"split": "train", "questions": 20, "passages": 100}
TINY = Setting(
    name="tiny",
    questions=2,
    chains=2,
    iterations=1,
    beam=1,
    max_response_tokens=160,
    env_options=OPTIONS,
)
# Speaks the protocol, on the command line of a Python, and measures nothing.
FAKE = """#!{python}
import json, sys
assert sys.argv[1:3] == ["-m", "benchmarks.speed.peers.rollouts"]
print(json.dumps({{sys.argv[3]: "9.9"}}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    n = task["setting"]["questions"]
    figures = {{"seconds": 1.0 + n, "sampled": 100, "inserted": 5, "prefilled": 7, "reused": 0}}
    print(json.dumps(figures), flush=True)
"""


@pytest.fixture
def fake(tmp_path: Path) -> str:
    script = tmp_path / "python"
    script.write_text(FAKE.format(python=sys.executable))
    script.chmod(0o755)
    return str(script)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = ("ours", "ours, no reuse", "generate loop", "trl", "vllm")
    monkeypatch.setattr(rollout_speed, "SETTINGS", {"tiny": (TINY, ways, "tiny trees")})


def test_the_ways_grow_trees_of_one_kind_and_count_them() -> None:
    found = {name: way.measure(TINY, 0) for name, way in own_ways().items()}
    ours, nothing, loop = found["ours"], found["ours, no reuse"], found["generate loop"]
    assert {each["leaves"] for each in found.values()} == {2 * 3}
    assert {each["prompt"] for each in found.values()} == {ours["prompt"]}
    # Same seeds, same engine: reuse changes the cost and not the trees.
    assert (nothing["sampled"], nothing["inserted"]) == (ours["sampled"], ours["inserted"])
    assert nothing["reused"] == loop["reused"] == 0 < ours["reused"]
    assert ours["prefilled"] + ours["reused"] == nothing["prefilled"]
    # Again, from an empty cache.
    assert own_ways()["ours"].measure(TINY, 0) | {"seconds": 0} == ours | {"seconds": 0}


def test_the_generate_loop_samples_what_our_engine_does() -> None:
    model, tokenizer = policy("mini")
    env = TINY.env()
    trees = []
    for engine in (TransformersEngine(model, tokenizer), PlainEngine(model, tokenizer)):
        collector = Collector(env, engine, tokenizer, max_response_tokens=120)
        asked = [*env.questions[:3], env.questions[0]]
        trees.append(collector.collect(asked, Chains(1), temperature=0.0))
    for ours, plain in zip(*trees, strict=True):
        assert [n.ids() for n in plain.nodes()] == [n.ids() for n in ours.nodes()]
        for a, b in zip(ours.nodes(), plain.nodes(), strict=True):
            assert (a.finish, a.action) == (b.finish, b.action)
            assert b.logprobs == pytest.approx(a.logprobs, abs=1e-4)
    assert {n.finish for tree in trees[0] for n in tree.nodes()[1:]} >= {"stop"}


def test_the_generate_loop_knows_its_own_probabilities() -> None:
    model, tokenizer = policy("mini")
    env = TINY.env()
    collector = Collector(env, PlainEngine(model, tokenizer), tokenizer, max_response_tokens=60)
    (tree,) = collector.collect(env.questions[:1], Chains(2), temperature=0.7)
    kept = [leaf.path()[1].logprobs for leaf in tree.leaves()]
    scored = flat_logprobs(model, tree.rows(), temperature=0.7)
    for own, row in zip(kept, scored, strict=True):
        assert own == pytest.approx(row[: len(own)].tolist(), abs=1e-4)


def test_a_generate_round_takes_one_temperature() -> None:
    model, tokenizer = policy("mini")
    engine = PlainEngine(model, tokenizer)
    collector = Collector(TINY.env(), engine, tokenizer)
    for heat in (0.0, 1.0):
        with pytest.raises(StopIteration):
            # Stop as soon as the requests are queued.
            engine.step = iter(()).__next__  # type: ignore[method-assign]
            collector.collect(TINY.env().questions[:1], Chains(1), temperature=heat)
    del engine.step
    with pytest.raises(EvaluationError, match="one temperature"):
        engine.step()


def test_forced_episodes_have_their_number_of_turns() -> None:
    setting = replace(TINY, name="forced", iterations=0, turns=4, max_response_tokens=800)
    figures = own_ways()["ours"].measure(setting, 0)
    assert figures["turns_per_leaf"] == 4
    dialect = forced_env(4, OPTIONS).core.dialect
    assert dialect.parse("<search> a b </search>").calls[0].arguments == {"query": "a b"}
    assert dialect.parse("I say: one two").calls[0].arguments == {"query": "I one two"}
    assert dialect.parse("...").calls[0].arguments == {"query": "film"}


def test_the_command_measures_ways_and_peers_and_says_what_is_absent(
    tmp_path: Path, fake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "figures.json"
    rollout_speed.main(
        [*("--settings", "tiny", "--repeats", "2", "--questions", "1"), "--trl-python", fake]
        + ["--vllm-python", "", "--out", str(out)]
    )
    figures = json.loads(out.read_text())
    assert figures["absent"] == {"vllm": "no --vllm-python was given"}
    assert figures["peers"] == {"trl": {"trl": "9.9"}}
    tiny = figures["settings"]["tiny"]
    assert tiny["questions"] == 1 and tiny["repeats"] == 2
    assert list(tiny["ways"]) == ["ours", "ours, no reuse", "generate loop", "trl"]
    assert tiny["ways"]["trl"]["each"] == [[2.0, 100]] * 2
    shown = capsys.readouterr().out
    assert "TRL `GRPOTrainer` 9.9" in shown and "Absent: vllm" in shown


def test_a_peer_without_the_model_is_absent(tmp_path: Path) -> None:
    script = tmp_path / "python"
    lines = FAKE.format(python=sys.executable).splitlines()[:4]
    lines += [
        "for line in sys.stdin:",
        "    print(json.dumps({'absent': 'no weights'}), flush=True)",
    ]
    script.write_text("\n".join(lines))
    script.chmod(0o755)
    figures = measure(RolloutSpeedConfig(settings=("tiny",), only=("trl",), trl_python=str(script)))
    assert figures["absent"] == {"tiny, trl": "no weights"}
    assert figures["settings"] == {}


def test_a_peer_that_dies_takes_nobody_with_it(tmp_path: Path) -> None:
    script = tmp_path / "python"
    dying = "    if task['number'] == 0: sys.exit('Boom: it died')\n    n = "
    script.write_text(FAKE.format(python=sys.executable).replace("    n = ", dying))
    script.chmod(0o755)
    only = ("generate loop", "trl")
    config = RolloutSpeedConfig(
        settings=("tiny",), only=only, questions=1, repeats=1, trl_python=str(script)
    )
    figures = measure(config)
    assert figures["absent"] == {"tiny, trl": "Boom: it died"}
    assert list(figures["settings"]["tiny"]["ways"]) == ["generate loop"]


def test_repeats_are_summarised_by_their_median() -> None:
    found = summary([{"seconds": s, "sampled": n} for s, n in ((1.0, 400), (2.0, 400), (1.0, 100))])
    assert found["sampled_per_second"] == 200 and found["sampled_per_second_range"] == [100, 400]
    assert found["each"] == [[1.0, 400], [2.0, 400], [1.0, 100]]


def test_a_peer_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(EvaluationError, match="(?s)expected a Python with trl.*no such package"):
        Peer("trl", str(script))
    with pytest.raises(EvaluationError, match="expected a Python at"):
        Peer("trl", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"questions": -1}, {"settings": ("none",)}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(EvaluationError, match="expected"):
        measure(RolloutSpeedConfig(**wrong))  # type: ignore[arg-type]
