"""How commands end: wrong input, signals, closed pipes, what a terminal cannot show."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from safetensors import SafetensorError

from at2po_agents.cli import main, terminal
from at2po_agents.cli.endings import ending
from at2po_agents.cli.terminal import Terminal, show_json
from at2po_agents.cli.training import _drawing
from at2po_agents.tree import RolloutTree

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
Refused = Callable[..., str]
AT2PO = [sys.executable, "-m", "at2po_agents"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rollout --index -1", "index: expected a number of at least 0"),
        ("rollout --index 100000", "index: expected 0 to"),
        ("train --env=", "expected the id of an environment, found ''"),
        ("train --env ../a:b/C-v0", "expected the id of an environment"),
        ("eval --env at2po/MiniWiki-v0, --agent scripted", "expected the id of an environment"),
        ("eval --env at2po/MiniWiki --agent scripted", "expected the id of an environment"),
        ("train --algorithm os:system", "expected a dataclass with name"),
        ("train --algorithm sys:exit", "expected a dataclass with name"),
        ("train --algorithm pathlib:Path", "expected a dataclass with name"),
        ("train --algorithm os:", "extends at2po_agents.algorithms.Algorithm"),
        ("train --lora.rank 2 --lora.targets (", "lora.targets: expected all-linear or a regular"),
        ("train --optim.learning-rate 1e300", "optim.learning_rate: expected a number above 0"),
        ("train --optim.weight-decay inf", "weight_decay: expected a finite number"),
        ("train --rollout.temperature 1e-40", "temperature: expected a number"),
        ("train --seed 99999999999999999999", "seed: expected a number"),
        (
            "train --rollout.tool-wait-timeout-s 1e300",
            "rollout.tool_wait_timeout_s: expected",
        ),
        ("train --cluster.stall-s nan", "cluster.stall_s: expected a finite number"),
        (
            "train --cluster.rollout-worker-gpus inf",
            "cluster.rollout_worker_gpus: expected a finite number",
        ),
        ("warmstart --steps -1", "steps: expected a number of at least 1"),
        ("warmstart --width 33", "width: expected a multiple of 32"),
        ("warmstart --error-rate 2", "error_rate: expected a number"),
        ("train --out=", "expected a path, found ''"),
        ("eval --out=", "expected a path, found ''"),
        ("compare a b --out=", "expected a path, found ''"),
        ("rollout --export=", "expected a path, found ''"),
        ("warmstart --out=", "expected a path, found ''"),
        ("index build --corpus c --out=", "expected a path, found ''"),
        ("data list --root=", "expected a path, found ''"),
        ("serve --port 18439 --index bm25:nowhere", "could not be opened"),
        ("data lis", "did you mean 'list'"),
        ("index built", "did you mean 'build'"),
        ("trian", "did you mean 'train'"),
        ("train --learning-rat 1", "--optim.learning-rate"),
        ("eval --model nowhere", "hub"),
        ("eval --env at2po/MiniWik-v0", "at2po/MiniWik-v0"),
        ("eval --env-options colour=red", "colour"),
        ("eval --env at2po/Household-v0 --agent direct", "in which one can answer"),
        ("eval --endpoint.url http://me:secret@host/v1", "key_variable"),
    ],
)
def test_wrong_input_is_refused_where_it_enters(
    line: str, why: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(*line.split())
    assert why in said and "secret" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["export", "report"])
def test_empty_positional_paths_are_refused(
    name: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "expected a path, found ''" in refused(name, "", "")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--model.device meta", "device: expected auto, cpu, or a device that torch can use"),
        ("--model.device hpu", "device: expected auto, cpu, or a device that torch can use"),
        ("--engine.options cache_bytes=abc", "cache_bytes: expected a number"),
        ("--engine.options cache_bytes=-1", "cache_bytes: expected a number"),
        ("--engine.options cache_bytes=true", "cache_bytes: expected a number"),
        ("--engine vllm --engine.options url=http://[::1", "url: expected http://HOST:PORT"),
        ("--engine vllm --engine.options url=7", "url: expected text"),
        ("--engine vllm --engine.options url=http://a timeout_s=nan", "timeout_s: expected a num"),
    ],
)
def test_devices_and_options_of_engines_are_checked(
    words: str, why: str, refused: Refused, tmp_path: Path
) -> None:
    out = ["--config", "demo", "--steps", "0", "--out", str(tmp_path / "run")]
    assert why in refused("train", *out, *words.split())


def test_a_missing_extra_is_named(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("at2po_agents.workers.ray.")]:
        if name != "at2po_agents.config.cluster":
            monkeypatch.delitem(sys.modules, name)
    words = ["--config", "demo", "--steps", "0", "--cluster.rollout-workers", "1"]
    assert "pip install 'at2po[ray]'" in refused("train", *words, "--out", str(tmp_path / "run"))


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("No space left on device"),
        gymnasium.error.DependencyNotInstalled("no display"),
        OSError(28, "No space left on device"),
        MemoryError("cannot allocate"),
        ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"),
    ],
)
def test_what_the_machine_refuses_is_one_message(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, ending("at2po train"):
        _raise(error)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("at2po: ")


def test_a_bug_keeps_its_traceback_and_says_what_it_is() -> None:
    with pytest.raises(KeyError) as bug, ending("at2po train"):
        _raise(KeyError("x"))
    assert "at2po train: this is a bug in at2po; please report it" in bug.value.__notes__[0]
    assert len(bug.traceback) > 1


@pytest.mark.parametrize(
    ("raised", "code", "name"),
    [
        (KeyboardInterrupt(), 130, "SIGINT"),
        (SystemExit(143), 143, "SIGTERM"),
        (SystemExit(15), 143, "SIGTERM"),  # by Ray's own handler
    ],
)
def test_a_stop_is_two_lines(
    raised: BaseException, code: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, ending("at2po train", "how to go on"):
        _raise(raised)
    first, second = capsys.readouterr().err.splitlines()
    assert stop.value.code == code and name in first and second == "how to go on"


@pytest.mark.parametrize(
    ("number", "before", "code"),
    [(signal.SIGTERM, signal.getsignal(signal.SIGTERM), 143), (signal.SIGINT, signal.SIG_DFL, 130)],
)
def test_a_signal_unwinds_a_command_and_does_then_what_it_did(
    number: signal.Signals, before: signal.Handlers, code: int
) -> None:
    earlier, left = signal.signal(number, before), []
    try:
        with pytest.raises(SystemExit) as stop, ending("at2po train"):
            try:
                os.kill(os.getpid(), number)
                time.sleep(60)
            finally:
                left.append(True)
        assert stop.value.code == code and left and signal.getsignal(number) is before
    finally:
        signal.signal(number, earlier)


def started(tmp_path: Path, *words: str, ready: Callable[[], bool]) -> subprocess.Popen[str]:
    """Start a command with the usual signals, and wait until it is ready."""
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [*AT2PO, *words],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            env=ENVIRONMENT,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_stopped_says_so(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    words = ["train", "--config", "demo", "--eval.questions", "2", "--steps", "1000"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = started(
        tmp_path,
        *words,
        "--out",
        str(tmp_path / "run"),
        ready=lambda: metrics.exists() and metrics.read_text().count("\n") > 1,
    )
    process.send_signal(number)
    assert process.wait(60) == code
    said = (tmp_path / "errors").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-2:] == [
        f"at2po train: stopped by {'Ctrl-C (SIGINT)' if code == 130 else 'SIGTERM'}",
        "the same command with --resume goes on from the last checkpoint, if there is one",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_server_that_is_stopped_ends_without_a_traceback(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "contents": "\\"Jaws\\"\\nA film about a shark."}\n')
    subprocess.run(
        [*AT2PO, "index", "build", "--corpus", str(corpus), "--out", str(tmp_path / "index")],
        check=True,
        capture_output=True,
        env=ENVIRONMENT,
    )
    errors = tmp_path / "errors"
    process = started(
        tmp_path,
        *["serve", "--index", f"bm25:{tmp_path / 'index'}", "--port", "18437"],
        ready=lambda: errors.exists() and "running on" in errors.read_text(),
    )
    process.send_signal(number)
    assert process.wait(60) == code
    said = errors.read_text()
    assert "Traceback" not in said and "at2po serve: stopped by" in said.splitlines()[-2]


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    line = f"{' '.join(AT2PO)} paper-check | head -1 > /dev/null"
    done = subprocess.run(line, shell=True, capture_output=True, env=ENVIRONMENT, cwd=ROOT)
    assert done.stderr == b""
    with pytest.raises(SystemExit), ending("at2po data"):
        _raise(BrokenPipeError())


@pytest.mark.parametrize("words", ["paper-check", "train --help", "data list"])
def test_output_in_ascii_holds_everything(words: str, tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "AT2PO_DATA": str(tmp_path)}
    (tmp_path / "questions").mkdir()
    done = subprocess.run([*AT2PO, *words.split()], capture_output=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii")


HOSTILE = "[/nope] [red]x[/red] :smile: \x1b]0;title\x07\x1b[2J \x9b31m \u202e \ud83d end"
SHOWN = r"[/nope] [red]x[/red] :smile: \x1b]0;title\x07\x1b[2J \x9b31m \u202e \ud83d end"


def printed(renderable: object, encoding: str = "utf-8") -> str:
    """What a terminal of that encoding gets, without the styles."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Terminal(file=file, width=200, force_terminal=True, color_system=None).print(renderable)
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_text_is_shown_and_not_obeyed(encoding: str) -> None:
    table, tree = Table("head " + HOSTILE), Tree(HOSTILE)
    table.add_row(HOSTILE)
    tree.add(HOSTILE)
    for renderable in (HOSTILE, table, tree):
        assert SHOWN in printed(renderable, encoding)
    for renderable in (Text(HOSTILE), Tree(Text(HOSTILE))):  # which rich strips of a bell
        assert "\x1b" not in printed(renderable, encoding)


def test_a_tree_of_hostile_turns_can_be_drawn() -> None:
    tree = RolloutTree("q", [1])
    tree.add(tree.root, action=HOSTILE, value=0.0, advantage=0.0, sampled=[1], logprobs=[0.0])
    question = SimpleNamespace(question=HOSTILE, golden_answers=[HOSTILE])
    assert printed(_drawing(tree, question)).count(SHOWN) == 3


def test_json_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, value in [("utf-8", HOSTILE + "é\x7f"), ("ascii", "é 𝄞"), ("utf-8", "é 𝄞")]:
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(terminal, "out", Terminal(file=file))
        show_json({"text": value})
        file.flush()
        written = file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert json.loads(written) == {"text": value}
        assert not {"\x1b", "\x9b", "\x7f"} & set(written)
    assert "é 𝄞" in written


def test_logs_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    line = importlib.import_module("at2po_agents.cli.command_line")
    logger = logging.getLogger("hostile")
    handler = line.log_handler()
    handler.handle(logger.makeRecord("hostile", logging.INFO, "", 0, HOSTILE, (), None))
    said = capsys.readouterr().err
    assert "\x1b]0" not in said and r"\x1b]0;title" in "".join(said.split("\n"))


def in_a_shell(line: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which AT2PO stands for the command."""
    line = line.replace("AT2PO", " ".join(AT2PO))
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("AT2PO --help >&-", 0),
        ("AT2PO --help <&- >&- 2>&-", 0),
        ("AT2PO nope 2>&-", 2),
        ("AT2PO nope 2>/dev/full", 2),
        ("AT2PO --help >/dev/full", 2),
    ],
)
def test_closed_and_full_streams_change_no_code(line: str, code: int, tmp_path: Path) -> None:
    done = in_a_shell(line, tmp_path)
    assert done.returncode == code and "Traceback" not in done.stderr


def test_what_is_printed_gets_into_no_file_where_the_streams_are_closed(tmp_path: Path) -> None:
    words = "eval --agent random --limit 2 --env-options questions=2 passages=100 --out e"
    assert in_a_shell(f"AT2PO {words} <&- >&- 2>&-", tmp_path).returncode == 0
    lines = (tmp_path / "e" / "episodes.jsonl").read_text().splitlines()
    assert len([json.loads(line)["em"] for line in lines]) == 2


def test_a_reader_that_leaves_a_table_is_a_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    pipe = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    with pytest.raises(SystemExit) as stop, ending("at2po"):
        Terminal().print(Table("a"))
    assert stop.value.code == 141
    pipe.close()


@pytest.mark.parametrize("columns", ["0", "1", "5"])
def test_a_narrow_terminal_is_taken_for_a_wider_one(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for console in (terminal.out, terminal.errors):
        monkeypatch.setattr(console, "_width", int(columns))
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--help"])  # which took forever
    assert stop.value.code == 0 and "--port" in capsys.readouterr().out


def test_a_library_that_cannot_be_loaded_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = ImportError("libtorch_cpu.so: failed to map segment", path="/lib/torch/_C.so")
    with pytest.raises(SystemExit) as stop, ending("at2po eval"):
        _raise(error)
    assert stop.value.code == 2 and "a library that can be loaded" in capsys.readouterr().err


def test_ctrl_c_before_a_command_begins_has_no_traceback(tmp_path: Path) -> None:
    # The first module that the command imports sends the signal.
    (tmp_path / "rich.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        [*AT2PO, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == -signal.SIGINT and not done.stderr
