"""What a command imports before it does anything, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("datasets", "gymnasium", "matplotlib", "ray", "scipy", "torch", "transformers")
SCRIPT = f"""
import sys
from at2po_agents.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code in (None, 0), stop.code
print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""
ROOT = Path(__file__).parents[3]


def imports(*words: str) -> set[str]:
    """Run a command and return which heavy packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "data --help",
        "data list --help",
        "index --help",
        "index build --help",
        "index info --help",
        "index search --help",
        "serve --help",
        "doctor --help",
        "export --help",
    ],
)
def test_these_import_nothing_heavy(line: str) -> None:
    assert imports(*line.split()) == set()


def test_those_about_questions_and_papers_import_environments_only(tmp_path: Path) -> None:
    questions = tmp_path / "questions" / "nq"
    questions.mkdir(parents=True)
    assert imports("data", "list", "--root", str(tmp_path)) <= {"gymnasium"}
    assert imports("paper-check") <= {"gymnasium"}
    assert imports("compare", "--help") <= {"gymnasium"}


@pytest.mark.parametrize("name", ["train", "eval", "rollout", "demo", "warmstart"])
def test_the_settings_of_commands_with_a_model_are_read_without_torch(name: str) -> None:
    assert imports(name, "--help") <= {"gymnasium"}


def test_reports_load_what_draws_and_no_model() -> None:
    assert imports("report", "--help") <= {"gymnasium", "matplotlib"}


def test_a_passage_is_found_without_torch(tmp_path: Path) -> None:
    corpus, index = tmp_path / "corpus.jsonl", str(tmp_path / "index")
    corpus.write_text('{"id": "1", "contents": "\\"Jaws\\"\\nA film about a shark."}\n')
    assert imports("index", "build", "--corpus", str(corpus), "--out", index) == set()
    words = ["--retriever", f"bm25:{index}", "--queries", "shark"]
    assert imports("index", "search", *words) == set()


# Of the extras; whatever imports one of them finds it missing.
ABSENT = ("matplotlib", "safetensors", "tensorboard", "tokenizers", "torch", "transformers")
CORE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without_extras(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code where only the packages of the core are installed."""
    return subprocess.run(
        [sys.executable, "-c", CORE + code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


COMMAND = "from at2po_agents.cli import main\nmain(sys.argv[1:])"


def test_environments_are_played_without_torch() -> None:
    done = without_extras("""
import at2po_envs, gymnasium
for name in ("MiniWiki", "Calculator", "Household"):
    env = gymnasium.make(f"at2po/{name}-v0").unwrapped
    env.reset(seed=1)
    at = env.snapshot()
    first = env.step("<think> x </think> <answer> y </answer>")
    env.restore(at)
    assert env.step("<think> x </think> <answer> y </answer>")[:3] == first[:3]
""")
    assert done.returncode == 0, done.stderr


def test_an_index_is_built_and_searched_without_torch(tmp_path: Path) -> None:
    corpus, index = tmp_path / "corpus.jsonl", str(tmp_path / "index")
    corpus.write_text('{"id": "1", "contents": "\\"Jaws\\"\\nA film about a shark."}\n')
    built = without_extras(COMMAND, "index", "build", "--corpus", str(corpus), "--out", index)
    assert built.returncode == 0, built.stderr
    words = ["index", "search", "--retriever", f"bm25:{index}", "--queries", "shark"]
    found = without_extras(COMMAND, *words)
    assert found.returncode == 0 and "Jaws" in found.stdout, found.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("train --steps 1", "train"),
        ("eval --limit 1", "train"),
        ("eval --limit 1 --agent random", "report"),
        ("rollout", "train"),
        ("warmstart", "train"),
        ("report FOLDER", "report"),
    ],
)
def test_a_missing_extra_is_named(words: str, extra: str, tmp_path: Path) -> None:
    line = words.replace("FOLDER", str(tmp_path)).split()
    if line[0] not in ("rollout", "report"):
        line += ["--out", str(tmp_path / "out")]
    done = without_extras(COMMAND, *line)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"pip install 'at2po[{extra}]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_doctor_works_without_torch() -> None:
    done = without_extras(COMMAND, "doctor")
    assert done.returncode == 0 and "at2po[train]" in done.stdout, done.stderr


def test_names_of_the_packages_are_found_when_asked_for() -> None:
    code = """
import sys, at2po_agents, at2po_agents.engines
assert "torch" not in sys.modules
from at2po_agents import *
assert at2po_agents.engines.TransformersEngine is TransformersEngine
assert at2po_agents.losses.clipped and at2po_agents.credit.check and Trainer and Node
assert not hasattr(at2po_agents, "nothing")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
