"""What a command imports before it does anything, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from at2po_agents.cli import COMMANDS, main
from retrieval.extras import EXTRAS

# Those that take long to import, or that an extra brings. NumPy is needed by all commands.
HEAVY = {
    "datasets", "starlette", "gymnasium", "httpx2", "huggingface_hub", "jsonschema", "matplotlib",
    "pandas", "peft", "pyarrow", "pydantic", "ray", "safetensors", "scipy", "tensorboard",
    "tokenizers", "torch", "transformers", "uvicorn", "vllm",
}  # fmt: skip
ENVIRONMENTS, DRAWING = {"gymnasium"}, {"gymnasium", "matplotlib"}
SERVER = {"starlette", "pydantic", "uvicorn"}
# Command line -> the heavy packages that it may import; a name in capitals is a file made below.
MAY_IMPORT: dict[str, set[str]] = {
    "--help": set(),
    "compare --help": ENVIRONMENTS,
    "compare EPISODES OTHERS --out OUT": ENVIRONMENTS,
    "data --help": set(),
    "data list --help": set(),
    "data list --root DATA": ENVIRONMENTS,
    "data verify --help": set(),
    "demo --help": ENVIRONMENTS,
    "doctor": {"gymnasium", "huggingface_hub"},
    "doctor --help": set(),
    "eval --agent scripted --limit 1 --out OUT": DRAWING,
    "eval --help": ENVIRONMENTS,
    "export --help": set(),
    "index --help": set(),
    "index build --corpus CORPUS --out OUT": set(),
    "index build --help": set(),
    "index info --help": set(),
    "index info --index INDEX": set(),
    "index search --help": set(),
    "index search --retriever bm25:INDEX --queries shark": set(),
    "paper-check": ENVIRONMENTS,
    "paper-check --help": ENVIRONMENTS,
    "report --help": DRAWING,
    "report EPISODES": DRAWING,
    "rollout --help": ENVIRONMENTS,
    "serve --help": SERVER,
    "train --help": ENVIRONMENTS,
    "warmstart --help": ENVIRONMENTS,
}
SCRIPT = f"""
import sys
from at2po_agents.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code in (None, 0), stop.code
print(*({HEAVY!r} & sys.modules.keys()), file=sys.stderr)
"""
ROOT = Path(__file__).parents[3]


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What commands read, by the name that stands for it in `MAY_IMPORT`."""
    folder = tmp_path_factory.mktemp("files")
    names = ("CORPUS", "DATA", "EPISODES", "INDEX", "OTHERS")
    made = {name: folder / name.lower() for name in names}
    made["CORPUS"].write_text('{"id": "1", "contents": "\\"Jaws\\"\\nA film about a shark."}\n')
    (made["DATA"] / "questions" / "nq").mkdir(parents=True)
    main(["index", "build", "--corpus", str(made["CORPUS"]), "--out", str(made["INDEX"])])
    for agent, name in (("scripted", "EPISODES"), ("random", "OTHERS")):
        main(["eval", "--agent", agent, "--limit", "2", "--out", str(made[name])])
    return made


@pytest.mark.parametrize("line", MAY_IMPORT)
def test_a_command_imports_what_it_needs(line: str, files: dict[str, Path], tmp_path: Path) -> None:
    words = line
    for name, path in {**files, "OUT": tmp_path / "out"}.items():
        words = words.replace(name, str(path))
    done = python(SCRIPT, *words.split())
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()[-1].split()) <= MAY_IMPORT[line]


def test_every_command_is_in_the_table() -> None:
    assert {line.split()[0] for line in MAY_IMPORT} == {*COMMANDS, "--help"}


@pytest.mark.parametrize(
    ("package", "may_import"),
    [("at2po_agents", set()), ("at2po_envs", ENVIRONMENTS), ("retrieval", set())],
)
def test_a_package_imports_what_it_needs(package: str, may_import: set[str]) -> None:
    done = python(f"import sys, {package}\nprint(*({HEAVY!r} & sys.modules.keys()))")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= may_import


# Of the extras; whatever imports one of them finds it missing. The hub's client brings httpx2.
ABSENT = EXTRAS.keys() - {"httpx2"}
CORE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(ABSENT)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without_extras(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code where only the packages of the core are installed."""
    return python(CORE + code, *words)


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


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("train --steps 1", "train"),
        ("eval --limit 1", "train"),
        ("eval --limit 1 --agent random", "report"),
        ("rollout", "train"),
        ("warmstart", "train"),
        ("report FOLDER", "report"),
        ("serve --index bm25:FOLDER", "serve"),
    ],
)
def test_a_missing_extra_is_named(words: str, extra: str, tmp_path: Path) -> None:
    line = words.replace("FOLDER", str(tmp_path)).split()
    if line[0] not in ("report", "rollout", "serve"):
        line += ["--out", str(tmp_path / "out")]
    done = without_extras(COMMAND, *line)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"pip install 'at2po[{extra}]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_doctor_works_without_torch() -> None:
    done = without_extras(COMMAND, "doctor", "--load")
    assert done.returncode == 0 and "at2po[train]" in done.stdout, done.stderr


def test_names_that_need_an_extra_say_so() -> None:
    done = without_extras("from at2po_agents import RolloutTree, TrainConfig, make_env, Trainer")
    assert "ModuleNotFoundError: expected the package" in done.stderr
    assert "pip install 'at2po[train]'" in done.stderr


def test_names_of_the_packages_are_found_when_asked_for() -> None:
    done = python("""
import sys, at2po_agents, at2po_agents.engines
assert "torch" not in sys.modules
from at2po_agents import *
assert at2po_agents.engines.TransformersEngine is TransformersEngine
assert at2po_agents.losses.clipped and at2po_agents.advantages.check and Trainer and Node
assert not hasattr(at2po_agents, "nothing")
""")
    assert done.returncode == 0, done.stderr


def test_every_public_name_may_be_the_first_that_is_asked_for() -> None:
    code = """
import importlib, sys
for name in importlib.import_module("at2po_agents").__all__:
    for module in [m for m in sys.modules if m.partition(".")[0] == "at2po_agents"]:
        del sys.modules[module]
    print(name, type(getattr(importlib.import_module("at2po_agents"), name)).__name__)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert {name for name, kind in found.items() if kind == "module"} == {
        "advantages",
        "algorithms",
        "losses",
        "ratios",
    }
