"""Do the tests notice when the code is changed? Mutants of the post-processing and of the labels.

    python benchmarks/mutants.py                        # 200 mutants, or as many as an hour is enough for
    python benchmarks/mutants.py count=1000 minutes=30 seed=3 modules=labels,postprocess/spikes

Cosmic Ray's operators change one place of a module: another operator, comparison or number, a negated
condition, a loop that never runs, and so on. Places are drawn at random, and one change at each. Every mutant
meets the tests of its module in a process of its own, forked from one that has imported all that is slow; it
is killed when a test fails, or when it takes four times the processor time that the whole code takes, or
20 s of it for one test. That the tests hold for the whole code is seen first; ``check=false`` believes it.
Modules that numba compiles run as Python. Left out: type annotations, texts, ``__all__``, what only compiles,
changes that are no Python.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}

import importlib.abc
import importlib.util
import math
import re
import resource
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from options import read_options  # beside this file

ROOT = Path(__file__).parents[1]
# The tests of a module, what is most likely to notice first. The engine of array operations and the compiled
# one give the same spikes, and most tests take both: a module of one of them meets its own half.
BASIC, CONFLICTS, FIT, STEPWISE, VECTORS = (
    f"test_postprocess{name}" for name in ("", "_conflicts", "_fit", "_stepwise", "_vectors")
)
TESTS = {
    "labels": ["test_labels"],
    "labelled_spikes": ["test_labels"],
    "postprocess/checks": [FIT, BASIC, CONFLICTS, STEPWISE],
    "postprocess/compaction": [FIT, BASIC, CONFLICTS],
    "postprocess/compiled": [BASIC],
    "postprocess/compiled_graph": [CONFLICTS, FIT],
    "postprocess/compiled_kernels": [CONFLICTS, FIT, STEPWISE],
    "postprocess/compiled_vectors": [VECTORS],
    "postprocess/compiled_window": [CONFLICTS, FIT, STEPWISE],
    "postprocess/conflicts": [CONFLICTS, FIT],
    "postprocess/detect": [BASIC, FIT],
    "postprocess/engine": [BASIC, CONFLICTS, FIT],
    "postprocess/fit": [FIT, STEPWISE],
    "postprocess/fixed_point": [CONFLICTS, FIT, STEPWISE],
    "postprocess/lowering": [FIT, CONFLICTS, BASIC],
    "postprocess/reach": [BASIC, CONFLICTS],
    "postprocess/rounds": [FIT, CONFLICTS, BASIC],
    "postprocess/sliding": [BASIC, CONFLICTS, FIT],
    "postprocess/sparse": [BASIC],
    "postprocess/spikes": [BASIC, FIT],
    "postprocess/stepwise": [STEPWISE],
    "postprocess/table": [CONFLICTS, BASIC, FIT],
}
ONLY_ARRAY = {"compaction", "lowering", "rounds", "sliding", "sparse"}
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
LEFT_OUT_ARRAY = f"{LEFT_OUT} and not numba"
LEFT_OUT_UNCOMPILED = f"{LEFT_OUT} and not array and not (chunked_equals_whole and numba) and not any_pieces"
DEFAULTS = {
    "count": "200",
    "minutes": "60",
    "seed": "0",
    "workers": "2",
    "modules": "all",
    "check": "true",
    "output": "benchmarks/results/mutants.json",
}
PATIENCE = 4
WALL_PATIENCE = 20
USUAL_S = 25
MOST_S_OF_A_TEST = 20
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


class Patience:
    """Ends the process where one test takes so much processor time: a loop that has no end any more."""

    def pytest_runtest_logstart(self, nodeid, location):
        """Begin to count, before each test."""
        signal.setitimer(signal.ITIMER_PROF, MOST_S_OF_A_TEST)


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


def is_uncompiled(module):
    return module.rpartition("/")[2] in UNCOMPILED


def tests_of(module):
    """Files of tests, in order, and which tests of them."""
    if is_uncompiled(module):
        wanted = LEFT_OUT_UNCOMPILED + (" and not across_steps" if STEPWISE not in TESTS[module][:1] else "")
    else:
        wanted = LEFT_OUT_ARRAY if module.rpartition("/")[2] in ONLY_ARRAY else LEFT_OUT
    return tuple(f"tests/{name}.py" for name in TESTS[module]), wanted


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
        signal.alarm(WALL_PATIENCE * limit_s)
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
        files, wanted = tests_of(module)
        code = int(pytest.main([*options, "-k", wanted, *files], plugins=[Patience()]))
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
    whole = {tests_of(mutant.module): USUAL_S for mutant in mutants}
    if options["check"] == "true":
        kinds = {tests_of(mutant.module): mutant.module for mutant in mutants}
        unchanged = ((module, module, None, 3600) for module in kinds.values())
        for module, code, taken_s in outcomes(unchanged, int(options["workers"])):
            if code != 0:
                sys.exit(f"the tests of {module} fail without a change: exit code {code}")
            whole[tests_of(module)] = taken_s
            print(f"{module}: its tests take {taken_s:.0f} s", flush=True)
    begin = time.perf_counter()
    jobs = (
        (mutant, mutant.module, mutant.source, round(PATIENCE * whole[tests_of(mutant.module)]) + 5)
        for mutant in mutants
        # They come in random order, so those before the end of the time are a sample too.
        if time.perf_counter() < begin + 60 * float(options["minutes"])
    )
    rows = []
    for mutant, code, taken_s in outcomes(jobs, int(options["workers"])):
        rows.append({"module": mutant.module, "survived": code == 0})
        print(f"{len(rows)}. {mutant.module}: {code}, {taken_s:.0f} s", flush=True)
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
