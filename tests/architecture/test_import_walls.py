"""Dependencies run one way: what a pure file loads, and what each folder may name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rpg_openrlhf"
FILES = sorted(PACKAGE.rglob("*.py"))
STACK = {"ray", "deepspeed", "vllm", "openrlhf"}
PURE = {  # and what it may not load besides the stack and transformers
    "rpg_openrlhf.divergences": set(),
    "rpg_openrlhf.losses": set(),
    "rpg_openrlhf.log_probs": set(),
    "rpg_openrlhf.config": {"torch", "yaml"},
    "rpg_openrlhf.layers": {"torch"},
    "rpg_openrlhf.reference": {"torch"},
    "rpg_openrlhf.checkpoints": {"torch"},
    "rpg_openrlhf.run_lock": {"torch"},
    "rpg_openrlhf.eval_metrics": {"torch"},
    "rpg_openrlhf.cli.eval_sets": {"torch", "datasets", "huggingface_hub"},
    "rpg_openrlhf.columns": {"torch"},
    "rpg_openrlhf.draw_ahead": {"torch", "numpy"},
    "rpg_openrlhf.trainer.supervise": {"torch"},
    "rpg_openrlhf.prompts": {"torch"},
    "rpg_openrlhf.trainer.weight_sync.plan": set(),
    "rpg_openrlhf.cli.scaling_tables": {"torch"},
    "rpg_openrlhf.rewards.grading": {"torch"},
    "evaluation.commands.grade": {"torch"},
    "evaluation.commands.report": {"torch"},
    "rpg_openrlhf.problems.pipeline": {"torch", "pyarrow", "datasets", "huggingface_hub"},
    "rpg_openrlhf.cli.prepare_data": {"torch", "pyarrow", "datasets", "huggingface_hub"},
    "evaluation.scores.results": {"torch", "matplotlib"},
    "evaluation.sampling.dispatch": {"torch", "numpy"},
}
EVALUATION = sorted((ROOT / "evaluation").rglob("*.py"))
FORBIDDEN = {
    "rewards": ("rpg_openrlhf.trainer", "rpg_openrlhf.cli", "evaluation"),
    "trainer": ("rpg_openrlhf.cli", "evaluation"),
    "problems": ("rpg_openrlhf.trainer", "rpg_openrlhf.cli", "evaluation"),
    "cli": ("evaluation",),
    "": (
        "rpg_openrlhf.trainer",
        "rpg_openrlhf.cli",
        "rpg_openrlhf.rewards",
        "rpg_openrlhf.problems",
        "evaluation",
    ),  # the package's own files
}


def loaded_by(code: str) -> set[str]:
    """Top-level names in a fresh interpreter's sys.modules after `code`."""
    report = "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("module", PURE)
def test_pure_files_load_nothing_of_the_stack(module):
    loaded = loaded_by(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert not loaded & (STACK | {"transformers"} | PURE[module])


def test_help_loads_nothing_of_the_stack():
    """A refusal costs a moment, not the half minute that the imports take."""
    command = (
        "import runpy, sys\nsys.argv = ['train_rpg', '--help']\n"
        "try: runpy.run_module('rpg_openrlhf.cli.train_rpg', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    loaded = loaded_by(command)
    assert "yaml" in loaded, "the command did not run"
    # Nothing else: `openrlhf` itself is an empty package, whose folder the launcher reads the parser from.
    assert not loaded & (STACK | {"torch", "transformers"})


def test_the_walls_see_a_heavy_import():
    assert "ray" in loaded_by("import ray")


def imports(path: Path, module_level: bool = False) -> Iterator[str]:
    """Full names that a file imports: anywhere, or only where importing the file runs them."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import hides where it goes"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def folder(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path):
    forbidden = (*FORBIDDEN[folder(path)], "examples", "tests")
    assert not [name for name in imports(path) if within(name, forbidden)]


@pytest.mark.parametrize("path", EVALUATION, ids=lambda path: str(path.relative_to(ROOT)))
def test_evaluation_knows_the_grader_and_the_prompt_alone(path):
    packages = ["rpg_openrlhf", "openrlhf", "deepspeed", "examples", "tests"]
    ours = {name for name in imports(path) if within(name, packages)}
    allowed = ["rpg_openrlhf.rewards", "rpg_openrlhf.prompts"]
    allowed += ["rpg_openrlhf.problems.rows", "rpg_openrlhf.problems.overlap"]  # what a problem is, and its copies
    assert not [
        name for name in ours - {"rpg_openrlhf"} if not within(name, allowed)
    ]  # the package alone: its version


def test_one_file_of_evaluation_holds_vllm_and_one_ray():
    for package, file in (("vllm", "engine_process.py"), ("ray", "ray_replicas.py")):
        assert {path.name for path in EVALUATION if any(within(name, [package]) for name in imports(path))} == {file}


def names_of_files(condition) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in FILES if condition(path)}


def test_only_the_trainer_imports_the_stack():
    """Elsewhere only where it is asked for, in the launcher: `--dry_run` reads the data as upstream will."""
    eager = names_of_files(lambda path: any(within(name, STACK) for name in imports(path, module_level=True)))
    assert {Path(name).parts[0] for name in eager} == {"trainer"}
    anywhere = names_of_files(lambda path: any(within(name, STACK) for name in imports(path)))
    assert {name for name in anywhere if not name.startswith("trainer/")} == {"cli/dry_run.py"}


def test_the_launcher_meets_the_trainer_in_one_place():
    cli = names_of_files(lambda path: any(within(name, ["rpg_openrlhf.trainer"]) for name in imports(path)))
    assert {name for name in cli if not name.startswith("trainer/")} == {"cli/train_rpg.py"}
    assert not [name for name in imports(PACKAGE / "cli/train_rpg.py", True) if within(name, ["rpg_openrlhf.trainer"])]


def bound_names(tree: ast.AST, packages) -> set[str]:
    """Names by which a file knows `packages` or anything in them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.partition(".")[0] for a in node.names if within(a.name, packages)}
        if isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name for a in node.names if within(f"{node.module}.{a.name}", packages)}
    return names


def root_name(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def rebinds(path: Path, packages) -> bool:
    """Does the file assign, delete or setattr an attribute of anything it imports from `packages`?"""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = bound_names(tree, packages)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and root_name(node) in names:
            return True
        setter = isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "mock.patch.object")
        if setter and root_name(node.args[0]) in names:
            return True
    return False


def test_one_file_patches_torch_deepspeed_and_vllm():
    assert names_of_files(lambda path: rebinds(path, {"torch", "deepspeed", "vllm"})) == {"trainer/cpu_platform.py"}


def test_four_files_rebind_upstreams_names():
    """install.py on the driver, three in their own worker; cpu_platform.py is handed the modules it changes."""
    in_worker = {"trainer/actor.py", "trainer/rpg_trainer.py", "trainer/schedule_free.py"}
    assert names_of_files(lambda path: rebinds(path, {"openrlhf"})) == {"trainer/install.py", *in_worker}
