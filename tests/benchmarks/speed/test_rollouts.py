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
FAKE = """
import json, sys
assert sys.argv[1:3] == ["-m", "benchmarks.speed.peers.rollouts"]
print(json.dumps({sys.argv[3]: "9.9"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    figures = {"seconds": 1.0 + task["setting"]["questions"], "sampled": 100}
    figures |= {"inserted": 5, "prefilled": 7, "reused": 0}
    print(json.dumps(figures), flush=True)
"""


def peer_python(folder: Path, code: str = FAKE) -> str:
    """A Python that runs this code, whatever it is told to run."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    return str(script)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    setting(monkeypatch, "ours", "ours, no reuse", "generate loop", "trl", "vllm")


def setting(monkeypatch: pytest.MonkeyPatch, *ways: str) -> None:
    """Let these ways grow tiny trees, and nothing else be measured."""
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


def test_forced_episodes_have_their_number_of_turns() -> None:
    setting = replace(TINY, name="forced", iterations=0, turns=4, max_response_tokens=800)
    figures = own_ways()["ours"].measure(setting, 0)
    assert figures["turns_per_leaf"] == 4
    dialect = forced_env(4, OPTIONS).core.dialect
    assert dialect.parse("<search> a b </search>").calls[0].arguments == {"query": "a b"}
    assert dialect.parse("I say: one two").calls[0].arguments == {"query": "I one two"}
    assert dialect.parse("...").calls[0].arguments == {"query": "film"}


def test_the_command_measures_ways_and_peers_and_says_what_is_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "figures.json"
    rollout_speed.main(
        [*("--settings", "tiny", "--repeats", "2", "--vllm-python", "")]
        + ["--trl-python", peer_python(tmp_path), "--out", str(out)]
    )
    figures = json.loads(out.read_text())
    assert figures["absent"] == {"vllm": "no --vllm-python was given"}
    assert figures["peers"] == {"trl": {"trl": "9.9"}}
    tiny = figures["settings"]["tiny"]
    assert tiny["questions"] == 2 and tiny["repeats"] == 2
    assert list(tiny["ways"]) == ["ours", "ours, no reuse", "generate loop", "trl"]
    assert tiny["ways"]["trl"]["seconds"] == 3.0
    shown = capsys.readouterr().out
    assert "TRL `GRPOTrainer` 9.9" in shown and "Absent: vllm" in shown


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("figures = {'absent': 'no weights'}", "no weights"),
        ("sys.exit('Boom: it died') if task['number'] == 0 else None", "Boom: it died"),
    ],
)
def test_a_peer_that_cannot_measure_is_absent_and_takes_nobody_with_it(
    change: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting(monkeypatch, "generate loop", "trl")
    reply = "    print(json.dumps(figures)"
    python = peer_python(tmp_path, FAKE.replace(reply, f"    {change}\n{reply}"))
    config = RolloutSpeedConfig(settings=("tiny",), repeats=1, trl_python=python)
    figures = measure(config)
    assert figures["absent"].pop("vllm")
    assert figures["absent"] == {"tiny, trl": reason}
    assert list(figures["settings"]["tiny"]["ways"]) == ["generate loop"]


def test_repeats_are_summarised_by_their_median() -> None:
    found = summary([{"seconds": s, "sampled": n} for s, n in ((1.0, 400), (2.0, 400), (1.0, 100))])
    assert found["sampled_per_second"] == 200 and found["sampled_per_second_range"] == [100, 400]


def test_a_peer_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    python = peer_python(tmp_path, "import sys\nsys.exit('no such package')")
    with pytest.raises(EvaluationError, match="(?s)expected a Python with trl.*no such package"):
        Peer("trl", python)
    with pytest.raises(EvaluationError, match="expected a Python at"):
        Peer("trl", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"settings": ("none",)}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(EvaluationError, match="expected"):
        measure(RolloutSpeedConfig(**wrong))  # type: ignore[arg-type]
