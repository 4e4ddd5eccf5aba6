"""Imports inside `funnel` point one way, and each outside library has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import funnel

ROOT = Path(funnel.__file__).parent
# Nothing imports what stands below it. A package stands for all its modules, which may
# import each other; names on one line know nothing of each other either.
LAYERS = (
    ("errors", "version"),
    ("cascade",),
    ("results",),
    ("progress",),
    ("kernels",),
    ("vectors",),
    ("graph",),
    ("store",),
    ("sources",),
    ("probes",),
    ("projection",),
    ("build",),
    ("plan",),
    ("threads",),
    ("selection",),
    ("snapshot",),
    ("exact",),
    ("search",),
    ("reading",),
    ("conditions",),
    ("filters",),
    ("nested",),
    ("options",),
    ("planning",),
    ("writing",),
    ("compaction",),
    ("merging",),
    ("adapt",),
    ("handle",),
    ("explaining",),
    ("changing",),
    ("index",),
    ("classify",),
    ("cli",),
    ("__main__",),
    ("__init__",),
)
HEIGHT = {name: i for i, names in enumerate(LAYERS) for name in names}
INTRINSICS = tuple(
    f"kernels/{name}.py"
    for name in ("fours", "jit", "lanes", "memory", "ordered", "tiles")
)
# Who may import what: paths below `funnel/`, a folder for all its files.
DOORS = {
    "hnswlib": ("graph/build.py",),
    "faiss": ("graph/build.py",),
    "numba": INTRINSICS,
    "llvmlite": INTRINSICS,
    "pyarrow": (
        "store/", "sources.py", "options.py", "reading.py", "handle.py", "build/",
        "writing.py", "compaction.py", "filters.py", "conditions.py",
    ),
    "xxhash": ("store/", "build/"),
    "filelock": ("store/lock.py",),
    "tqdm": ("progress.py",),
    "rich": ("adapt/tables.py", "cli.py"),
    "matplotlib": ("adapt/tuning.py",),
    "sklearn": ("classify/",),
}  # fmt: skip
ANYWHERE = {"numpy"} | (sys.stdlib_module_names - {"pickle", "shelve", "marshal"})
NETWORK = {
    "aiohttp", "asyncio", "ftplib", "http", "httpx", "imaplib", "poplib", "requests",
    "smtplib", "socket", "socketserver", "ssl", "telnetlib", "urllib", "urllib3",
    "webbrowser", "xmlrpc",
}  # fmt: skip
# Numba itself imports scipy where that is installed.
LATE = ("hnswlib", "faiss", "sklearn", "matplotlib", "pandas", "polars", "tqdm", "rich")
SOURCES = sorted(ROOT.rglob("*.py"))


def imported(source):
    """Return the dotted names that a file imports anywhere, functions included.

    ``importlib.import_module`` and ``__import__`` of a literal count as well.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("import_module", "__import__"):
                assert isinstance(first, ast.Constant), "imports name what they want"
                names.add(first.value)
    return names


def layer_of(dotted):
    """Return the module or package below `funnel` that a dotted name is in."""
    part = (*dotted.split("."), "")[1]
    inside = (ROOT / part).is_dir() or (ROOT / f"{part}.py").exists()
    return part if part and inside else "__init__"


def home_of(path):
    """Return the layer of a file."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def misplaced(home, names):
    """Return the imports of `names` that do not point down from layer `home`."""
    targets = {layer_of(name) for name in names if name.split(".")[0] == "funnel"}
    return sorted(t for t in targets if t != home and HEIGHT[t] >= HEIGHT[home])


def through_a_wall(relative, names):
    """Return the outside libraries that a file has no door to."""
    outside = {name.split(".")[0] for name in names} - {"funnel", "__future__"}
    return sorted(
        name
        for name in outside
        if name not in ANYWHERE
        and not any(
            relative == door or (door.endswith("/") and relative.startswith(door))
            for door in DOORS.get(name, ())
        )
    )


def named(path):
    return path.relative_to(ROOT).as_posix()


def test_layers__list_every_module():
    assert {home_of(path) for path in SOURCES} == set(HEIGHT)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports__point_one_way(path):
    assert misplaced(home_of(path), imported(path.read_text())) == []


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_libraries__come_in_by_their_door(path):
    assert through_a_wall(named(path), imported(path.read_text())) == []


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_network__is_not_used(path):
    assert not {name.split(".")[0] for name in imported(path.read_text())} & NETWORK


def test_doors__are_all_used():
    for library, doors in DOORS.items():
        for door in doors:
            files = [p for p in SOURCES if named(p).startswith(door)]
            text = "\n".join(path.read_text() for path in files)
            used = {name.split(".")[0] for name in imported(text)} if files else set()
            assert library in used, f"{door} does not import {library}: shut it"


@pytest.mark.parametrize(
    ("home", "source", "expected"),
    [
        ("search", "from funnel.index import FunnelIndex", ["index"]),
        ("search", "from funnel import FunnelIndex", ["__init__"]),
        ("search", "import funnel", ["__init__"]),
        ("kernels", "def f():\n    import funnel.vectors", ["vectors"]),
        ("errors", "from funnel.version import __version__", ["version"]),
        ("store", "from funnel import search, errors", ["search"]),
        ("store", "from funnel.store.ids import x\nimport funnel.errors", []),
    ],
)
def test_misplaced__sees_imports_that_point_up(home, source, expected):
    assert misplaced(home, imported(source)) == expected


@pytest.mark.parametrize(
    ("relative", "source", "expected"),
    [
        ("search.py", "def f():\n    import faiss", ["faiss"]),
        ("search.py", "importlib.import_module('hnswlib')", ["hnswlib"]),
        ("graph/adjacency.py", "from faiss import IndexFlatIP", ["faiss"]),
        ("graph/build.py", "import faiss, hnswlib, importlib", []),
        ("kernels/walk.py", "from numba import njit", ["numba"]),
        ("store_more.py", "import pyarrow.compute", ["pyarrow"]),
        ("search.py", "import torch\nimport numpy, os", ["torch"]),
        ("store/manifest.py", "import pickle", ["pickle"]),
    ],
)
def test_through_a_wall__sees_libraries_without_a_door(relative, source, expected):
    assert through_a_wall(relative, imported(source)) == expected


def test_import__brings_in_no_heavy_library():
    code = "import sys, funnel; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    loaded = set(done.stdout.split())
    assert "funnel.index" in loaded
    assert loaded.isdisjoint(LATE)
