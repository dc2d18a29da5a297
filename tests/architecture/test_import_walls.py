"""Dependencies run one way: what a pure file loads, and what each folder may name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rpg_openrlhf"
FILES = sorted(PACKAGE.rglob("*.py"))
STACK = {"ray", "deepspeed", "vllm", "openrlhf"}
PURE = {  # and what it may not load besides the stack and transformers
    "rpg_openrlhf.objectives.divergences": {"torch"},
    "rpg_openrlhf.objectives.losses": set(),
    "rpg_openrlhf.objectives.log_probs": set(),
    "rpg_openrlhf.settings.own_flags": {"torch", "yaml"},
    "rpg_openrlhf.settings.layers": {"torch"},
    "rpg_openrlhf.reference.schedule": {"torch"},
    "rpg_openrlhf.runs.checkpoints": {"torch"},
    "rpg_openrlhf.runs.lock": {"torch"},
    "rpg_openrlhf.runs.evaluation": {"torch"},
    "rpg_openrlhf.preflight.eval_sets": {"torch", "datasets", "huggingface_hub"},
    "rpg_openrlhf.sampling.columns": {"torch"},
    "rpg_openrlhf.sampling.draw_ahead": {"torch", "numpy"},
    "rpg_openrlhf.launch.supervise": {"torch"},
    "rpg_openrlhf.problems.prompt": {"torch"},
    "rpg_openrlhf.weight_sync.plan": set(),
    "rpg_openrlhf.rewards.grading": {"torch"},
    "evaluation.commands.grade": {"torch"},
    "evaluation.commands.report": {"torch"},
    "rpg_openrlhf.problems.pipeline": {"torch", "pyarrow", "datasets", "huggingface_hub"},
    "rpg_openrlhf.commands.prepare_data": {"torch", "pyarrow", "datasets", "huggingface_hub"},
    "evaluation.scores.results": {"torch", "matplotlib"},
    "evaluation.sampling.dispatch": {"torch", "numpy"},
}
ROOMS = ("rpg_openrlhf", "evaluation", "examples", "benchmarks")
EVALUATION = sorted((ROOT / "evaluation").rglob("*.py"))
ARROWS = {  # what the files of each folder may import of this package, besides their own folder
    "errors": (),
    "garbage": (),
    "deepspeed_states": (),
    "shards": (),
    "objectives": (),
    "reference": ("deepspeed_states", "shards"),
    "cpu_platform": (),
    "rewards": ("errors",),
    "problems": ("errors", "rewards"),
    "weight_sync": ("errors", "cpu_platform"),
    "sampling": ("errors", "garbage", "weight_sync"),
    "settings": ("errors", "objectives", "problems", "reference"),
    "runs": ("deepspeed_states", "errors", "settings", "shards", "weight_sync"),
    "preflight": ("errors", "problems", "runs", "settings"),
    "check": (
        *("cpu_platform", "deepspeed_states", "errors", "objectives"),
        *("problems", "settings", "weight_sync"),
    ),
    "training": (
        "deepspeed_states",
        "errors",
        "garbage",
        "objectives",
        "problems",
        "reference",
        "runs",
        "sampling",
        "weight_sync",
    ),
    "launch": ("errors", "cpu_platform", "garbage", "preflight", "runs", "sampling", "training"),
    "commands": ("check", "errors", "launch", "preflight", "problems", "runs", "settings"),
}
STACK_FOLDERS = {"check", "launch", "reference", "runs", "sampling", "training", "weight_sync"}


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
        "try: runpy.run_module('rpg_openrlhf.commands.train_rpg', run_name='__main__')\n"
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
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path):
    ours = [name for name in imports(path) if within(name, ["rpg_openrlhf", "evaluation", "examples", "tests"])]
    targets = {name.split(".")[1] if name.startswith("rpg_openrlhf.") else name for name in ours}
    allowed = {"rpg_openrlhf", "__init__", folder(path)}  # the package itself holds the version
    assert targets <= allowed | set(ARROWS.get(folder(path), ()))


def test_the_arrows_run_one_way():
    TopologicalSorter(ARROWS).prepare()  # raises CycleError
    assert {folder(path) for path in FILES} == set(ARROWS) | {"__init__"}


def test_no_two_files_import_each_other():
    """Counts imports inside functions too: a late import hides a circle, it does not open it."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    arrows = {
        module: {
            target
            for name in imports(path)
            for target in (name, name.rpartition(".")[0])
            if target in modules and target != module
        }
        for module, path in modules.items()
    }
    assert sum(map(len, arrows.values())) > len(files), "the walk found too few imports"
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", EVALUATION, ids=lambda path: str(path.relative_to(ROOT)))
def test_evaluation_knows_the_grader_and_the_prompt_alone(path):
    packages = ["rpg_openrlhf", "openrlhf", "deepspeed", "examples", "tests"]
    ours = {name for name in imports(path) if within(name, packages)}
    allowed = ["rpg_openrlhf.rewards", "rpg_openrlhf.problems.prompt"]
    # One reader of problems, and one explanation of the hub's errors.
    allowed += [f"rpg_openrlhf.problems.{name}" for name in ("hub", "rows", "reading", "overlap")]
    allowed += [
        "rpg_openrlhf.errors.Refusal",
        "rpg_openrlhf.garbage",
        "rpg_openrlhf.weight_sync.adapters",
    ]  # how adapters are merged
    assert not [
        name for name in ours - {"rpg_openrlhf"} if not within(name, allowed)
    ]  # the package alone: its version


def test_one_file_of_evaluation_holds_vllm_and_one_ray():
    for package, file in (("vllm", "engine_process.py"), ("ray", "ray_replicas.py")):
        assert {path.name for path in EVALUATION if any(within(name, [package]) for name in imports(path))} == {file}


def names_of_files(condition) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in FILES if condition(path)}


def test_the_folders_that_import_the_stack():
    """Elsewhere only inside a function: `--dry_run` reads the data as upstream will."""
    eager = names_of_files(lambda path: any(within(name, STACK) for name in imports(path, module_level=True)))
    assert {Path(name).parts[0] for name in eager} <= STACK_FOLDERS | {"shards.py"}
    anywhere = names_of_files(lambda path: any(within(name, STACK) for name in imports(path)))
    lazy = {name for name in anywhere if Path(name).parts[0] not in STACK_FOLDERS | {"shards.py"}}
    assert lazy == {"preflight/dry_run.py", "cpu_platform.py", "deepspeed_states.py"}


def test_the_commands_meet_the_stack_in_one_place():
    launch = names_of_files(lambda path: any(within(name, ["rpg_openrlhf.launch"]) for name in imports(path)))
    assert {name for name in launch if not name.startswith("launch/")} == {"commands/train_rpg.py"}
    eager = imports(PACKAGE / "commands/train_rpg.py", module_level=True)
    assert not [name for name in eager if within(name, ["rpg_openrlhf.launch"])]


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
    assert names_of_files(lambda path: rebinds(path, {"torch", "deepspeed", "vllm"})) == {"cpu_platform.py"}


def test_four_files_rebind_upstreams_names():
    """install.py on the driver, three in their own worker; cpu_platform.py is handed the modules it changes."""
    in_worker = {"training/actors.py", "training/trainer.py", "training/schedule_free.py"}
    assert names_of_files(lambda path: rebinds(path, {"openrlhf"})) == {"launch/install.py", *in_worker}
