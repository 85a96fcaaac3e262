"""`at2po eval`: what it refuses at once, and how it ends where nothing was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from at2po_agents.cli import main

SMALL = ["eval", "--env-options", "questions=3", "passages=100", "--agent", "scripted"]


def ends(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails says."""
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code not in (0, None)
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--temperature", "-1"),
        ("--temperature", "1e-30"),
        ("--max-response-tokens", "0"),
        ("--max-prompt-tokens", "-5"),
        ("--limit", "0"),
        ("--batch", "-1"),
        ("--error-rate", "1.5"),
        ("--error-rate", "nan"),
        ("--seed", "-1"),
        ("--endpoint.url", "http://[::1"),
        ("--endpoint.url", "http://endpoint:99999/v1"),
        ("--endpoint.timeout-s", "inf"),
        ("--endpoint.timeout-s", "1e12"),
        ("--endpoint.completion-price", "nan"),
        ("--endpoint.body", "top_p=nan"),
        ("--endpoint.body", "stream=true"),
        ("--env", ""),
        ("--env", "at2po/MiniWiki-v0,"),
        ("--env", "at2po/MiniWiki-v0,at2po/Nowhere-v0"),
        ("--env", "at2po/MiniWiki-v0,at2po/MiniWiki-v0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    said = ends([*SMALL, "--out", str(tmp_path / "out"), f"{option}", value], capsys)
    assert "expected" in said or "invalid" in said
    assert not (tmp_path / "out").exists()


def test_an_endpoint_that_is_not_there_is_no_agent_of_em_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--env-options", "questions=3", "passages=100", "--out", str(tmp_path)]
    words += ["--endpoint.url", "http://127.0.0.1:1/v1", "--endpoint.retries", "0"]
    assert "all 3 episodes failed" in ends(words, capsys)
    assert not (tmp_path / "summary.json").exists()
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert all(json.loads(line)["error"].startswith("EndpointError") for line in lines)


def test_prompts_that_are_all_too_long_measure_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--env-options", "questions=3", "passages=100", "--out", str(tmp_path)]
    said = ends([*words, "--max-prompt-tokens", "1"], capsys)
    assert "all 3 episodes failed" in said and "raise max_prompt_tokens" in said


def test_the_share_of_failures_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main([*SMALL, "--out", str(tmp_path)])
    assert "failed (" not in capsys.readouterr().out
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    failed = json.dumps(json.loads(lines[0]) | {"error": "E: \ud83d"})
    (tmp_path / "episodes.jsonl").write_text("\n".join([failed, *lines[1:]]) + "\n")
    main([*SMALL, "--out", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 3 episodes failed (33%) and count as wrong" in said
    assert "E: \ufffd" in (tmp_path / "summary.json").read_text(encoding="utf-8")
