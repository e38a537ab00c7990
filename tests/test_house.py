"""The rules of the house, checked by reading the code: who imports whom, sizes, and documents that tell the truth."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "cdd_core").rglob("*.py"))
APP = sorted((ROOT / "app").rglob("*.py")) + sorted(ROOT.glob("app.py"))
CODE = CORE + APP
LONGEST_FILE, LONGEST_FUNCTION = 330, 70
README = ROOT / "README.md"
MATHS = ROOT / "docs" / "maths.md"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules a file imports, also inside functions."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree_of(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def home(module: str) -> Path | None:
    """The file of one of our modules; None for a name inside a module, or for other people's."""
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@each(CORE)
def test_the_core_knows_nothing_of_the_page(path: Path):
    assert not tops(path) & {"app", "gradio", "gradio_client"}


@each(APP)
def test_in_the_app_only_the_engine_knows_the_core(path: Path):
    if not path.name.startswith("engine"):
        assert "cdd_core" not in tops(path)


@each(APP)
def test_only_the_page_knows_gradio(path: Path):
    if not (path.parent == ROOT / "app" and path.name.startswith("ui")):
        assert "gradio" not in tops(path)


@each(APP)
def test_the_page_knows_no_tensors(path: Path):
    if path.name.startswith("ui"):
        assert not tops(path) & {"torch", "diffusers", "transformers"}


def test_app_is_a_package():
    """Without __init__.py, `import app` would find app.py and run it."""
    assert (ROOT / "app" / "__init__.py").is_file()


@each(CODE)
def test_our_own_imports_exist(path: Path):
    """Also those inside functions, which nothing else would notice until the day they run."""
    wanted = {name for name in imports(path) if name.partition(".")[0] in ("cdd_core", "app")}
    parents = {name.rpartition(".")[0] for name in wanted}
    for name in wanted:
        assert home(name) or home(name.rpartition(".")[0]), f"{name} does not exist"
        # `from package import name`: name is a module, or something the package defines.
        module = home(name.rpartition(".")[0])
        if home(name) is None and name not in parents and module is not None:
            last = name.rpartition(".")[2]
            assert re.search(rf"\b{last}\b", module.read_text(encoding="utf-8")), f"{name} does not exist"


def test_imports_go_one_way():
    """No cycles, counting the imports inside functions too."""
    graph = {path: {home(name) for name in imports(path)} - {None, path} for path in CORE}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(map(name_of, (*trail[trail.index(path) :], path)))
        if path not in done:
            for other in graph.get(path, ()):
                visit(other, (*trail, path))
            done.add(path)

    for path in CORE:
        visit(path, ())


@each(CORE)
def test_public_functions_take_no_unnamed_options(path: Path):
    """A typo in an argument's name must be an error."""
    for function in functions(path):
        if not function.name.startswith("_"):
            assert function.args.kwarg is None, f"{function.name} takes **{function.args.kwarg.arg}"


@each(CODE)
def test_nothing_grows_too_long(path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE
    for function in functions(path):
        length = function.end_lineno - function.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{function.name} has {length} lines"


@each(CODE)
def test_no_globals_and_no_switches_at_import(path: Path):
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree_of(path)))
    for node in tree_of(path).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            pytest.fail(f"line {node.lineno} calls something at import")


@each(CODE)
def test_random_draws_name_their_generator(path: Path):
    if "data/terra" in name_of(path):
        return  # draws from seeded generators too, but also builds constant tiles; test_terra watches it
    draws = {"randn", "rand", "randint", "randperm", "multinomial", "bernoulli"}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in draws:
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                assert "generator" in {k.arg for k in node.keywords}, f"line {node.lineno}: torch.{node.func.attr}"


IMPORT_ALL = """
import importlib, importlib.util, pathlib, sys
WATCHED = (".safetensors", ".bin", ".pt", ".ckpt", ".npy")
def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(WATCHED):
        raise SystemExit(f"importing opened {arguments[0]}")
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"importing used the network: {arguments[1:]}")
sys.addaudithook(watch)
sys.argv = ["someone-elses-program", "--not-our-flag"]
import torch
before = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(),
          torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark)
for line in sys.stdin.read().split():
    if line.endswith(".py"):
        spec = importlib.util.spec_from_file_location("script", line)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    else:
        importlib.import_module(line)
after = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(),
         torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark)
assert before == after, f"importing changed torch: {before} to {after}"
assert not torch.cuda.is_initialized(), "importing touched the GPU"
assert "torchvision" not in sys.modules
"""


def test_importing_everything_does_nothing():
    """In a process of its own: no weights read, no network, no arguments parsed, no switch of torch flipped."""
    modules = []
    for path in CODE:
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules.append("app.py" if path == ROOT / "app.py" else ".".join(parts).removesuffix(".__init__"))
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        input="\n".join(modules),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def requirement_names(file: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines if line and not line.startswith("-"))
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in found if name}


def test_every_library_that_is_imported_is_required():
    homes = packages_distributions()
    required = requirement_names("requirements.txt")
    optional = {"xformers", "spaces"}  # imported only where they are installed
    for path in CODE:
        for top in tops(path) - set(sys.stdlib_module_names) - {"cdd_core", "app"} - optional:
            names = {re.sub(r"[-_.]+", "-", name).lower() for name in homes.get(top, [top])}
            assert names & required, f"{name_of(path)} imports {top}, which requirements.txt does not name"


def test_torchvision_is_nowhere():
    """It breaks CPU installs, and only what few people ask for needs it."""
    for file in ("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        assert "torchvision" not in requirement_names(file)
    for path in [*CODE, *sorted((ROOT / "tests").rglob("*.py"))]:
        assert "torchvision" not in tops(path), name_of(path)


def test_constraints_pin_every_requirement():
    pinned = requirement_names("constraints.txt")
    wanted = requirement_names("requirements.txt") | requirement_names("requirements-dev.txt")
    # Installed by whoever wants them.
    optional = {"xformers", "datasets", "webdataset", "braceexpand", "trackio", "bitsandbytes"}
    assert wanted - pinned <= optional


def tree_block(text: str) -> list[str] | None:
    """Lines of the first fenced block that draws our folders, or None."""
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
        if re.search(r"^[\s│├└─]*cdd_core/", block, re.MULTILINE):
            return block.splitlines()
    return None


def tree_paths(lines: list[str]) -> Iterator[str]:
    """Paths that a drawn tree names; `a.py, b_*.py` on one line are two, and `*` stands for anything."""
    parents: list[tuple[int, str]] = []
    for line in lines:
        plain = re.sub(r"[│├└─|]", " ", line)
        entry = re.match(r"( *)([^\s,]+(?:, [^\s,]+)*)", plain)
        if not entry:
            continue
        depth = len(entry[1])
        while parents and parents[-1][0] >= depth:
            parents.pop()
        prefix = "".join(folder for _, folder in parents)
        names = [name for name in entry[2].split(", ") if name not in ("…", "...", ".", "./")]
        yield from (prefix + name for name in names)
        if len(names) == 1 and names[0].endswith("/"):
            parents.append((depth, names[0]))


@pytest.mark.parametrize(
    "drawn",
    [
        ["a.py     starts", "app/", "  ui.py, ui_*.py  the page, and more", "core/", "  data/terra/  the world"],
        [".", "├── a.py", "├── app/", "│   └── ui.py, ui_*.py", "└── core/   all of it", "    └── data/terra/"],
    ],
)
def test_the_tree_reader_reads_trees(drawn: list[str]):
    assert list(tree_paths(drawn)) == ["a.py", "app/", "app/ui.py", "app/ui_*.py", "core/", "core/data/terra/"]


def test_the_readme_draws_what_is_there():
    lines = tree_block(README.read_text(encoding="utf-8"))
    assert lines is not None, "README.md draws no tree of folders"
    missing = [path for path in tree_paths(lines) if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing


def test_the_formulas_are_where_the_document_says():
    """docs/maths.md names a file and what is in it, each of which must exist."""
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", MATHS.read_text(encoding="utf-8"))
    assert len(named) > 20
    for file, symbol in named:
        scope: list[ast.stmt] = tree_of(ROOT / file).body
        for part in symbol.split("."):
            scope = next((list(s) for s in (body_of(node, part) for node in scope) if s is not None), [])
            assert scope, f"docs/maths.md names {file}:{symbol}, which does not exist"


def body_of(node: ast.stmt, name: str) -> list[ast.stmt] | None:
    """What stands inside a definition or an assignment called ``name``, or None if this isn't one."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
        return node.body
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and any(getattr(t, "id", None) == name for t in targets):
        return [node]
    return None
