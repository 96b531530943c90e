"""The house has floors: which module may import which, and who may know the heavy libraries."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "esort"

# A module may import from the floors below its own, and from its own floor.
FLOORS = [
    set(floor.split())
    for floor in (
        "files locks one_line style threads",
        "postprocess network labelled_spikes labels probes tracker tracking wandb_server",
        "recordings sortings contacts curation formats phy_tables artifacts extrema blanking stretches "
        "handling resampling interpolation defects label_pairs preprocessing health prepared simulation "
        "windows waveform_prior examples matched card checkpoint footprints events results motion excerpt "
        "symptoms admission weights_fit baseline rivals dense_network convrecurrent fairness label_curve "
        "label_plan",
        "datamodule lightning ranks resume learning answers calibration fitted transfer gradient pursuit "
        "training subject evaluation peers teacher "
        "teaching detector inference minutes unknown observer fitness sort_result saved offline sorter "
        "doubtful executor ray_executor buffered latency "
        "announcement unbroken stream openephys chunks outcome pictures report traces "
        "onnx_graph onnx_dense onnx_pursuit export "
        "grid study_table study_figure cost dashboards "
        "exports nwb phy backbones bootstrap spikeinterface_sorter "
        "inspect doctor workspace page pretrained manifest memory verify",
        "experiment sort_run objects plan runs sweep jobs study worker launching command optimise search",
    )
]
# These import nothing of esort's but the file helpers and parts of themselves.
ALONE = {
    "postprocess": set(),
    "network": set(),
    "labels": {"labelled_spikes"},
    "probes": set(),
    "tracking": {"tracker", "wandb_server"},
    "wandb_server": set(),
}
# Library -> the only modules that may import it ("train" and "sort" are the entries).
ONLY_IN = {
    "wandb": {"tracking", "wandb_server"},
    "wandb_workspaces": {"workspace"},
    "MEArec": {"simulation"},
    "optuna": {"optimise", "search"},
    "hydra": {
        "experiment",
        "objects",
        "plan",
        "runs",
        "sweep",
        "jobs",
        "study",
        "launching",
        "command",
        "optimise",
        "search",
    },
    "omegaconf": {
        "experiment",
        "sort_run",
        "objects",
        "plan",
        "runs",
        "sweep",
        "jobs",
        "study",
        "worker",
        "launching",
        "command",
        "optimise",
    },
}
# What costs seconds to import, or binds arrays to one library, does not come in by the front door.
FRAMEWORKS = {"torch", "jax", "cupy", "tensorflow", "array_api_strict", "pytorch_lightning"}
NO_FRAMEWORK = {
    "postprocess",
    "labels",
    "labelled_spikes",
    "probes",
    "files",
    "card",
    "checkpoint",
    "tracker",
    "tracking",
}


def python_files():
    files = sorted(PACKAGE.rglob("*.py"))
    return files + [path for path in (ROOT / "train.py", ROOT / "sort.py") if path.exists()]


def module_of(path):
    """Return the name of a file on the plan: the first part below the package."""
    if path.is_relative_to(PACKAGE):
        return path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return path.stem


def imports(path, *, only_when_loaded=False):
    """Return the dotted names that a file imports, with those inside functions or without.

    Imports under ``if TYPE_CHECKING`` are left out: they never happen.
    """
    names = []

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes = node.orelse
        elif only_when_loaded and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            nodes = []
        else:
            nodes = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            # "from esort import files" imports a module, "from esort.files import plain" a part of one.
            names.extend(f"{base}.{alias.name}" if base == "esort" else base for alias in node.names)
        for child in nodes:
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def absolute(path, node):
    """Return the dotted name of a possibly relative import."""
    if not node.level:
        return node.module or ""
    folder = path.parents[node.level - 1].relative_to(PACKAGE.parent)
    return ".".join([*folder.parts, *filter(None, [node.module])])


def own_imports(path):
    """Return the modules of esort that a file imports, other than its own."""
    names = [name.split(".") for name in imports(path) if name.split(".")[0] == "esort"]
    return {name[1] for name in names if len(name) > 1} - {module_of(path), "__version__"}


def floor_of(module):
    floors = [number for number, modules in enumerate(FLOORS) if module in modules]
    assert floors, f"{module} is on no floor: put it into FLOORS of {Path(__file__).name}"
    return floors[0]


def test_every_module_has_a_floor():
    modules = {module_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert {module for module in modules if not any(module in floor for floor in FLOORS)} == set()


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_down(path):
    module = module_of(path)
    if module in ("train", "sort", "__main__"):
        assert own_imports(path) <= {"command"}, "the entries only call esort.command"
        return
    if module == "__init__":
        assert all(floor_of(other) < len(FLOORS) - 1 for other in own_imports(path))
        return
    upwards = {other for other in own_imports(path) if floor_of(other) > floor_of(module)}
    assert not upwards, f"{module} imports {upwards} from above"
    if module in ALONE:
        assert own_imports(path) <= ALONE[module] | FLOORS[0]


def test_no_two_modules_need_each_other():
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        graph.setdefault(module_of(path), set()).update(own_imports(path))
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_libraries_stay_where_they_belong(path):
    libraries = {name.split(".")[0] for name in imports(path)}
    for library, modules in ONLY_IN.items():
        assert library not in libraries or module_of(path) in modules, f"{library} belongs to {modules}"


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_frameworks_are_not_imported_by_what_works_without(path):
    if module_of(path) in NO_FRAMEWORK:
        libraries = {name.split(".")[0] for name in imports(path, only_when_loaded=True)}
        assert not libraries & FRAMEWORKS


def test_relative_and_nested_imports_are_seen(tmp_path):
    file = PACKAGE / "simulation" / "imaginary.py"
    node = ast.parse("from ..checkpoint import Card").body[0]
    assert absolute(file, node) == "esort.checkpoint"
    assert absolute(file, ast.parse("from . import noise").body[0]) == "esort.simulation"
    assert absolute(file, ast.parse("from .. import files").body[0]) == "esort"
    script = tmp_path / "script.py"
    script.write_text(
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import numba\n"
        "def f():\n    from esort import files\n"
    )
    assert imports(script) == ["numba", "esort.files"]
    assert imports(script, only_when_loaded=True) == ["numba"]


def test_importing_esort_is_light():
    program = (
        "import sys, time, esort\n"
        "heavy = {'torch', 'wandb', 'MEArec', 'hydra', 'jax', 'optuna'} & set(sys.modules)\n"
        "print(time.process_time(), *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 1.5  # of the processor: whoever else is at work does not count
