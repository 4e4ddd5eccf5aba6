"""The README says what is true: its commands are in their place, its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_readme__first_two_commands_run_and_test():
    run, test = blocks("bash")[0].splitlines()[:2]
    assert run.endswith("python -m benchmarks.run --shortlist 200")
    assert test.endswith("python -m pytest -n logical")


def test_readme__code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python"):  # each goes on from the one before
        exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "doc-0 (100, 10)" in printed
    assert "document 7" in printed
    assert "rerank" in printed
    assert "['doc-7', 'doc-8'] 4999 [1, 2, 3, 4, 5, 6]" in printed


@pytest.mark.parametrize("name", ["adaptive", "classify"])
def test_documents__code_runs(name, tmp_path, monkeypatch):
    if name == "classify":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    path = ROOT / "docs" / f"{name}.md"
    (code,) = blocks("python", path.read_text())
    exec(compile(code, path.name, "exec"), {})


def test_readme__links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", README):
        if "://" not in link:
            assert (ROOT / link).exists(), link


def test_promises__name_tests_that_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    known = set(re.findall(r"^def (test_\w+)\(", tests, flags=re.MULTILINE))
    known |= {path.name for path in (ROOT / "tests").glob("test_*.py")}
    said = README + (ROOT / "funnel" / "store" / "FORMAT.md").read_text()
    named = set(re.findall(r"`(?:tests/)?(test_\w+(?:\.py)?)`", said))
    assert len(named) > 20
    assert not named - known
