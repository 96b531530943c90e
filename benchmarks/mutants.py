"""Do the tests notice when the code is changed? Mutants of the post-processing and of the labels.

    python benchmarks/mutants.py                        # 200 mutants: about half an hour on 2 cores
    python benchmarks/mutants.py count=50 seed=3 modules=labels,postprocess/spikes

Cosmic Ray's operators change one place of a module: another operator, comparison or number, a negated
condition, a loop that never runs, and so on. Places are drawn at random, and one change at each. Every mutant
meets the tests of its module in a process of its own, forked from one that has imported all that is slow; it
is killed when a test fails, or when it takes ten times the processor time that the whole code takes. Modules
that numba compiles run as Python. Left out: type annotations, texts, ``__all__``, what only compiles, changes
that are no Python.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}

import importlib.abc
import importlib.util
import math
import re
import resource
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from options import read_options  # beside this file

ROOT = Path(__file__).parents[1]
POSTPROCESS = [f"test_postprocess{name}" for name in ("_conflicts", "", "_fit", "_stepwise")]
# What is most likely to notice comes first.
TESTS = {
    "labels": ["test_labels"],
    "labelled_spikes": ["test_labels"],
    "postprocess/compiled_vectors": ["test_postprocess_vectors"],
}
FIRST = {
    "test_postprocess_stepwise": {"stepwise"},
    "test_postprocess_fit": {"checks", "compaction", "fit", "fixed_point", "lowering", "rounds", "sparse"},
    "test_postprocess": {"compiled", "detect", "reach", "sliding", "spikes"},
}
# A change in these is seen by Python, not by machine code that was made before it.
UNCOMPILED = {
    "compiled",
    "compiled_graph",
    "compiled_kernels",
    "compiled_window",
    "fit",
    "fixed_point",
    "stepwise",
}
# JAX compiles every operation for every shape; processes of their own see the code as it is.
LEFT_OUT = "not jax and not imports_no_array_library and not imports_without and not static_core"
# Loops over long recordings take minutes in Python; the shorter tests beside them know the same.
LEFT_OUT_UNCOMPILED = f"{LEFT_OUT} and not (chunked_equals_whole and numba) and not any_pieces"
DEFAULTS = {
    "count": "200",
    "seed": "0",
    "workers": "2",
    "modules": "all",
    "output": "benchmarks/results/mutants.json",
}
PATIENCE = 10
MOST_BYTES = 2**34


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    module: str
    line: int
    operator: str
    source: str
    change: str


def modules_of(names):
    there = [
        "labels",
        "labelled_spikes",
        *(f"postprocess/{path.stem}" for path in sorted((ROOT / "src/esort/postprocess").glob("*.py"))),
    ]
    there.remove("postprocess/__init__")
    if names == "all":
        return there
    wanted = names.split(",")
    if set(wanted) - set(there):
        sys.exit(f"expected modules among {', '.join(there)}, got {names}")
    return wanted


def places_of(source):
    """All changes, by the place in the source: {(start, stop, family): [(operator, occurrence)]}."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(source)))
    found = {}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():  # those want names of variables
            continue
        operator = operator()
        occurrence = 0
        for node in nodes:
            for start, stop in operator.mutation_positions(node):
                if not is_left_out(node, name):
                    family = name.partition("/")[2].split("_")[0]
                    found.setdefault((start, stop, family), []).append((name, occurrence))
                occurrence += 1
    return found


def is_left_out(node, operator):
    """Whether a change there says nothing about tests: annotations, markers in signatures, the compiler."""
    if "RemoveDecorator" in operator and "compile" in node.get_code():
        return True
    if re.search(r"_(Eq|NotEq|Lt|LtE|Gt|GtE)_Is(Not)?$", operator):
        return True  # which equal numbers and texts are one object is the interpreter's affair
    if node.parent is not None and node.parent.type == "parameters":
        return True
    child = node
    while child.parent is not None:
        parent = child.parent
        if parent.type in ("annassign", "param", "tfpdef") and ":" in [
            one.get_code().strip() for one in parent.children
        ]:
            before = parent.children[: parent.children.index(child)]
            if before and before[-1].get_code().strip() == ":":
                return True
        if parent.type == "funcdef":
            before = parent.children[: parent.children.index(child)]
            if before and before[-1].get_code().strip() == "->":
                return True
        if parent.type == "expr_stmt" and parent.get_code().lstrip().startswith(("__all__", "_compile")):
            return True
        child = parent
    return False


def draw(modules, count, rng):
    """Mutants at so many places, and how many places there are."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    places = []
    sources = {}
    for module in modules:
        sources[module] = (ROOT / f"src/esort/{module}.py").read_text(encoding="utf-8")
        places.extend((module, key, changes) for key, changes in sorted(places_of(sources[module]).items()))
    mutants = []
    for position in rng.permutation(len(places)):
        module, (start, _, _), changes = places[position]
        name, occurrence = changes[rng.integers(0, len(changes))]
        source = mutate_code(sources[module], get_operator(name)(), occurrence)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                compile(source, module, "exec")
        except SyntaxError:
            continue
        before, after = sources[module].splitlines(), source.splitlines()
        change = next(
            (f"{a.strip()}  ->  {b.strip()}" for a, b in zip(before, after, strict=False) if a != b), "?"
        )
        mutants.append(Mutant(module, start[0], name.partition("/")[2], source, change))
        if len(mutants) == count:
            break
    return mutants, len(places)


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module of the package another source."""

    def __init__(self, name, source):
        self.name, self.source = name, source

    def find_spec(self, name, path=None, target=None):
        """Say that this loads the module."""
        if name != self.name:
            return None
        file = ROOT / "src" / f"{name.replace('.', '/')}.py"
        spec = importlib.util.spec_from_file_location(name, file, loader=self)
        return spec

    def exec_module(self, module):
        """Run the other source in the place of the file's."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            exec(compile(self.source, module.__file__, "exec"), module.__dict__)  # noqa: S102


def tests_of(module):
    """Names of the files of tests, in order."""
    name = module.rpartition("/")[2]
    first = [tests for tests, modules in FIRST.items() if name in modules]
    return TESTS.get(module) or list(dict.fromkeys([*first, *POSTPROCESS]))


def is_uncompiled(module):
    return module.rpartition("/")[2] in UNCOMPILED


def kind_of(module):
    """Modules of one kind have tests that take as long."""
    return frozenset(tests_of(module)), is_uncompiled(module)


def import_what_is_slow():
    import array_api_strict  # noqa: F401
    import hypothesis
    import hypothesis.extra.numpy
    import numba  # noqa: F401
    import pytest  # noqa: F401
    import scipy.signal  # noqa: F401
    import torch

    torch.set_num_threads(1)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    # The same examples for each mutant; nothing is gained by shrinking them.
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, phases=phases, deadline=None
    )
    hypothesis.settings.load_profile("mutants")


def start(module, source, limit_s):
    """Fork a process that runs the tests of a module; its number."""
    child = os.fork()
    if child != 0:
        return child
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        if source is not None:
            sys.meta_path.insert(0, Loader(f"esort.{module.replace('/', '.')}", source))
        import numba
        import pytest

        os.environ["NUMBA_DISABLE_JIT"] = str(int(is_uncompiled(module)))
        numba.core.config.reload_config()
        os.chdir(ROOT)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-W", "ignore"]
        wanted = LEFT_OUT_UNCOMPILED if is_uncompiled(module) else LEFT_OUT
        code = int(pytest.main([*options, "-k", wanted, *(f"tests/{name}.py" for name in tests_of(module))]))
    finally:
        os._exit(code)


def outcomes(jobs, workers):
    """Run (name, module, source, limit) side by side; yield name, exit code, processor time of each."""
    jobs, running = iter(jobs), {}
    while True:
        while len(running) < workers and (job := next(jobs, None)) is not None:
            name, *rest = job
            running[start(*rest)] = name
        if not running:
            return
        child, status, usage = os.wait4(-1, 0)
        yield running.pop(child), os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def interval(killed, count):
    """Wilson's 95 % interval of a share."""
    z = 1.96
    share, extra = killed / count, z**2 / count
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / count + extra / (4 * count)) / (1 + extra)
    return middle - half, middle + half


def main(arguments):
    options = read_options(arguments, DEFAULTS)
    modules = modules_of(options["modules"])
    rng = np.random.default_rng(int(options["seed"]))
    mutants, num_places = draw(modules, int(options["count"]), rng)
    import_what_is_slow()
    begin = time.perf_counter()
    whole = {}
    for module in sorted({mutant.module for mutant in mutants}):
        tests = kind_of(module)
        if tests not in whole:
            ((_, code, whole[tests]),) = outcomes([(0, module, None, 3600)], 1)
            if code != 0:
                sys.exit(f"the tests of {module} fail without a change: exit code {code}")
            print(f"{module}: its tests take {whole[tests]:.0f} s", flush=True)
    jobs = (
        (mutant, mutant.module, mutant.source, round(PATIENCE * whole[kind_of(mutant.module)]) + 5)
        for mutant in mutants
    )
    rows = []
    for mutant, code, _ in outcomes(jobs, int(options["workers"])):
        rows.append({"module": mutant.module, "survived": code == 0})
        if code == 0:
            rows[-1] |= {"line": mutant.line, "operator": mutant.operator, "change": mutant.change}
            print(f"survived: {mutant.module}:{mutant.line} {mutant.operator}: {mutant.change}", flush=True)
    killed = sum(not row["survived"] for row in rows)
    low, high = interval(killed, len(rows))
    per_module = {}
    for module in modules:
        of_module = [row for row in rows if row["module"] == module]
        if of_module:
            died = sum(not row["survived"] for row in of_module)
            per_module[module] = {"mutants": len(of_module), "killed": died}
            print(f"{module:<32} {died:4} of {len(of_module):4} killed")
    print(
        f"{killed} of {len(rows)} mutants killed: {killed / len(rows):.1%}, "
        f"95 % interval {low:.1%} to {high:.1%}; {num_places} places, {time.perf_counter() - begin:.0f} s"
    )
    from esort.files import write_json

    content = {
        "command": "python benchmarks/mutants.py " + " ".join(f"{key}={options[key]}" for key in DEFAULTS),
        "places": num_places,
        "mutants": len(rows),
        "killed": killed,
        "rate": killed / len(rows),
        "interval_95": [low, high],
        "modules": per_module,
        "survivors": [row for row in rows if row["survived"]],
    }
    write_json(ROOT / options["output"], content)
    return 0 if killed >= 0.85 * len(rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
