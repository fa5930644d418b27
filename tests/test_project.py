"""The project's own promises: environments agree, imports flow down, notebooks are clean."""

import ast
import doctest
import importlib
import json
import pkgutil
import platform
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import helpers
from helpers import fields

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = re.findall(r"file: (\w+)", (ROOT / "book/_toc.yml").read_text(encoding="utf-8"))
CHAPTERS = [page for page in PAGES if page[0].isdigit()]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
# What conda-forge calls a package of pyproject.toml, where it differs.
CONDA_NAMES = {"pytorch-cpu": "torch"}


def requirements(*extras):
    """Return pyproject's requirements by name."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def run_tool(module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def source(cell):
    return "".join(cell["source"])


def address():
    """Load the book's tool that knows the repository's address."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "book/_ext/address.py")))


# Environments


def test_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    # Installing helpers through pip brings everything that pyproject.toml asks for.
    assert "-e .[book]" in pip
    listed = {canonicalize_name(Requirement(line).name): Requirement(line) for line in conda}
    (python,) = listed.pop("python").specifier
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.version.removesuffix(".*"))
    wanted = requirements()
    for conda_name, name in CONDA_NAMES.items():
        assert listed[conda_name].specifier == wanted[name].specifier, conda_name


def test_lock_covers_pyproject_and_names_no_build_or_place():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    locked = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    for name, wanted in requirements("book", "test").items():
        (pin,) = locked.get(name) or pytest.fail(f"{name} is not in the lock: run `make lock`")
        assert pin.operator == "==", name
        assert wanted.specifier.contains(pin.version), f"{name}: run `make lock`"
    text = "\n".join(lines)
    assert not re.search(r"^(nvidia|cuda|triton)|\+|://| @ |^-|--hash", text, re.MULTILINE)


# Code


def test_imports_flow_down_only():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(arguments):
    run_tool("ruff", *arguments, ".")


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="no biome wheel for this kind"
)
def test_biome_has_nothing_to_say_on_scripts_and_styles():
    biome = Path(sys.executable).with_name("biome")
    done = subprocess.run(
        [biome, "check", "--error-on-warnings", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_shapes_are_checked_while_testing():
    with pytest.raises(Exception, match="displacement"):
        fields.jacobian_determinant(torch.zeros(3, 4))


MODULES = ["helpers", *(m.name for m in pkgutil.walk_packages(helpers.__path__, "helpers."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    failures, _ = doctest.testmod(importlib.import_module(name))
    assert failures == 0


# Texts


def texts():
    folders = ("book", "helpers", "data_scripts", "tests", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    kinds = {".py", ".md", ".ipynb", ".yml", ".toml", ".txt", ".cff", ".json", ".csv", ".css", ""}
    return [
        path
        for path in [*ROOT.iterdir(), *inside]
        if path.is_file() and path.suffix in kinds and "__pycache__" not in path.parts
    ]


def test_no_file_names_a_folder_of_somebodys_machine():
    private = re.compile(r"(?<![\w.}~-])/(?:work|home|root|Users|farm)/\w+")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in texts()
        for match in private.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found, found


def test_readme_and_landing_page_list_the_chapters_of_the_book():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    landing = (ROOT / "book/index.md").read_text(encoding="utf-8")
    assert re.findall(r"\(book/(\d\w+)\.ipynb\)", readme) == CHAPTERS
    assert re.findall(r"\{doc\}`[^`<]+<(\d\w+)>`", landing) == CHAPTERS


def test_every_notebook_is_in_the_table_of_contents():
    names = {path.stem for path in NOTEBOOKS}
    assert set(CHAPTERS) <= names <= set(PAGES)


# Notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["accelerator"] == "GPU"  # what Colab starts it with
    assert "widgets" not in notebook["metadata"]
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        lines = [line for line in source(cell).splitlines() if line.strip()]
        assert len(lines) <= 14, f"machinery belongs in helpers:\n{source(cell)}"
        assert not cell["outputs"], "run: nbstripout book/*.ipynb"
        assert cell["execution_count"] is None, "run: nbstripout book/*.ipynb"
        if not re.search(r"^\s*[%!]", source(cell), re.MULTILINE):
            ast.parse(source(cell))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_begins_with_the_same_setup(path):
    cells = [json.loads(p.read_text(encoding="utf-8"))["cells"] for p in (NOTEBOOKS[0], path)]
    first, this = (next(c for c in each if c["cell_type"] == "code") for each in cells)
    assert source(this) == source(first)
    assert f'"https://github.com/{address().configured()}"' in source(this), "run: make address"


# The repository's address


@pytest.mark.parametrize(
    ("remote", "project"),
    [
        ("https://github.com/you/fork", "you/fork"),
        ("https://github.com/you/fork.git\n", "you/fork"),
        ("https://user:secret@github.com/you/my.fork.git", "you/my.fork"),
        ("git@github.com:you/fork.git", "you/fork"),
        ("ssh://git@github.com/you/fork", "you/fork"),
        ("/srv/git/course.git", None),
        ("https://example.org/you/fork", None),
        ("", None),
    ],
)
def test_address_of_a_remote(remote, project):
    assert address().project(remote) == project


def test_launch_buttons_follow_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("REPOSITORY_URL", "https://github.com/you/fork")
    assert address().of_checkout(tmp_path) == "you/fork"
    monkeypatch.delenv("REPOSITORY_URL")
    assert address().of_checkout(tmp_path) is None  # no git there: _config.yml has the word


def test_stamping_a_fork_changes_every_place(tmp_path):
    tool = address()
    for path in tool.files():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    upstream = tool.configured()
    changed = {path.name for path in tool.stamp("you/fork", tmp_path)}
    assert {"_config.yml", "README.md", "CITATION.cff", *(p.name for p in NOTEBOOKS)} <= changed
    assert tool.configured(tmp_path) == "you/fork"
    left = [p for p in tool.files(tmp_path) if upstream in p.read_text(encoding="utf-8")]
    assert not left
    assert tool.stamp("you/fork", tmp_path) == []


def test_only_the_stamped_files_name_the_address():
    tool = address()
    named = {path for path in texts() if tool.configured() in path.read_text(encoding="utf-8")}
    assert named <= set(tool.files())
