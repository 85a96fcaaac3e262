"""The rules that hold packages, rooms and modules apart."""

from __future__ import annotations

import ast

import pytest

from tests.architecture import PAGE, Architecture, with_tree

OURS = Architecture()
# What stands at the bottom comes first: nothing imports what comes after it.
ORDER = {
    "retrieval": "errors extras text protocol storage corpus bm25 dense lucene hybrid "
    "cache_database cache http factory building",
    "at2po_envs": "errors seeds tools dialects scoring question_sets episode tool_env scripted "
    "forking search_qa calculator household miniwiki registration",
    "at2po_agents": "errors threads settings tree monitoring policy engines rollout "
    "objective algorithms learner config workers training evaluation doctor cli __main__",
    "benchmarks": "errors memory environment command statistics curves paper evaluation "
    "comparison baselines report methods environments speed retrieval scale readme",
}
PACKAGES = list(ORDER)  # the lowest first
LARGEST_FOLDER, LONGEST_FILE, LONGEST_FUNCTION = 12, 350, 50
modules = pytest.mark.parametrize("module", OURS.files)


def package(module: str) -> str:
    return module.partition(".")[0]


@modules
def test_packages_import_what_is_below_them(module: str) -> None:
    if OURS.room(module) == "at2po_agents.cli":  # the command line starts all of them
        return
    above = set(PACKAGES[PACKAGES.index(package(module)) + 1 :])
    assert not {package(name) for name in OURS.imported(module)} & above
    commands = {name for name in OURS.imported(module) if name.startswith("at2po_agents.cli")}
    assert not commands or module == "at2po_agents.__main__"


@modules
def test_rooms_import_what_is_below_them(module: str) -> None:
    """Also: every room has its place in the order."""
    if module in PACKAGES:  # what a package offers comes from all of its rooms
        return
    order = [f"{package(module)}.{name}" for name in ORDER[package(module)].split()]
    here = order.index(OURS.room(module))
    mates = {name for name in OURS.arrows[module] if package(name) == package(module)}
    rooms = {OURS.room(name) for name in mates - {package(module)}}
    assert {room for room in rooms if order.index(room) > here} == set()


def test_no_module_imports_itself_by_others() -> None:
    assert OURS.cycle() == []


def test_folders_are_small() -> None:
    assert {folder: n for folder, n in OURS.folders.items() if n > LARGEST_FOLDER} == {}


@modules
def test_files_and_functions_are_short(module: str) -> None:
    text = OURS.files[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            assert (node.end_lineno or 0) - first.lineno < LONGEST_FUNCTION, node.name


@modules
def test_no_print_no_global_randomness(module: str) -> None:
    tree = ast.parse(OURS.files[module].read_text(encoding="utf-8"))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    forbidden = {"print", "random.seed", "random.random", "np.random.seed", "np.random.rand"}
    assert not forbidden & set(calls)
    assert "random" not in set(OURS.imported(module))


def test_the_page_shows_the_tree_as_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_tree(text, OURS.tree(ORDER)) == text, "run: python -m tests.architecture --write"
