"""What may come in: files are looked at before a reader believes, allocates or runs what they hold.

Formats that are programs (phy's ``params.py``, ``.prb``), name classes (SpikeInterface's JSON), hold pickles
or point to other files (HDF5) are taken only where they hold plain values.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

from esort.one_line import one_line

__all__ = [
    "MAX_PROBE_BYTES",
    "check_extractor",
    "check_hdf5",
    "check_input",
    "check_plain_python",
    "check_plain_yaml",
    "check_size",
]

MAX_PROBE_BYTES = 2**26
"""A hundred thousand contacts are described in less."""
_MAX_PYTHON_BYTES = 2**22
_MAX_JSON_BYTES = 2**28
_MAX_YAML_BYTES = 2**20
_MAX_YAML_DEPTH = 50
_MAX_RANGE = 10**6
_MAX_OBJECTS = 10**5
_CLASS = re.compile(r"spikeinterface(\.\w+)+")
_FUNCTIONS = {"list", "range", "dict", "tuple", "int", "float"}
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Load, ast.UAdd, ast.USub, ast.UnaryOp)
_ARITHMETIC = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div)
_PICKLES = {".pkl", ".pickle"}
_ZARR_HEADERS = {".zarray", ".zmetadata", "zarr.json"}


def check_size(path: Path, limit: int, what: str) -> None:
    """Refuse a file that is larger than such files are.

    Raises
    ------
    ValueError
    """
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"{path}: expected {what} of at most {limit} bytes, got {size}")


def check_plain_python(path: Path) -> None:
    """Refuse a file in Python that does more than give names to plain values; nothing is run.

    Raises
    ------
    ValueError
        It says in which line.
    """
    check_size(path, _MAX_PYTHON_BYTES, "a file of plain values")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is no file of plain values: {one_line(error, 100)}") from None
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a comment in the form of a text
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if not targets or not all(isinstance(target, ast.Name) for target in targets):
            raise _not_plain(path, statement)
        assert isinstance(statement, ast.Assign)
        _check_value(path, statement.value)


def _check_value(path: Path, value: ast.expr) -> None:
    called = set()
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            function = node.func
            if not isinstance(function, ast.Name) or function.id not in _FUNCTIONS or node.keywords:
                raise _not_plain(path, node)
            called.add(function)
            if function.id == "range" and not all(
                isinstance(one, ast.Constant) and isinstance(one.value, int) and abs(one.value) <= _MAX_RANGE
                for one in node.args
            ):
                raise ValueError(f"{path}: line {node.lineno}: expected a range of at most {_MAX_RANGE}")
        elif isinstance(node, ast.BinOp):
            numbers = [one for one in ast.walk(node) if isinstance(one, ast.expr)]
            if not all(
                isinstance(one, (ast.BinOp, ast.UnaryOp))
                or (isinstance(one, ast.Constant) and isinstance(one.value, (int, float)))
                for one in numbers
            ):
                raise _not_plain(path, node)
        elif isinstance(node, ast.Name):
            if node not in called and node.id not in _FUNCTIONS:
                raise _not_plain(path, node)
        elif not isinstance(node, (*_LITERALS, *_ARITHMETIC)):
            raise _not_plain(path, node)


def _not_plain(path: Path, node: ast.AST) -> ValueError:
    line = getattr(node, "lineno", "?")
    return ValueError(
        f"{path}: line {line}: expected names and plain values only, got {type(node).__name__}; it is not run"
    )


def check_plain_yaml(path: Path) -> None:
    """Refuse YAML that is large, deep, or has aliases: ten lines of these can stand for a thousand million.

    Raises
    ------
    ValueError
    """
    import yaml

    check_size(path, _MAX_YAML_BYTES, "a list of choices")
    depth = 0
    try:
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{path}: line {event.start_mark.line + 1}: expected no alias, got one")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_YAML_DEPTH:
                raise ValueError(f"{path}: expected at most {_MAX_YAML_DEPTH} levels, got more")
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {one_line(error, 100)}") from None


def check_input(path: Path, format_name: str) -> None:
    """Look at a recording or a sorting before a reader opens it.

    Parameters
    ----------
    path : Path
    format_name : str
        Of `esort.formats`.

    Raises
    ------
    ValueError
        One line that says what is not taken, and where it is.
    """
    if format_name == "spikeinterface":
        check_extractor(path)
    elif format_name == "simulation":
        for part in ("recording", "sorting"):
            check_extractor(path / part)
    for parameters in (path / "params.py", path / "sorter_output" / "params.py"):
        if parameters.is_file():
            check_plain_python(parameters)
    check_hdf5(path)


def check_extractor(path: Path) -> None:
    """Look at what SpikeInterface would load, a file or a folder: at its classes, and that it is no pickle.

    Raises
    ------
    ValueError
    """
    files = [path]
    if path.is_dir():
        if _is_zarr(path):
            _check_zarr(path)
            return
        files = [one for one in path.iterdir() if one.is_file()]
        if (path / "si_folder.json").is_file():  # where it is, pickles beside it are not read
            files = [one for one in files if one.suffix not in _PICKLES]
    for one in files:
        if one.suffix in _PICKLES:
            raise ValueError(f"{one} is a pickle, which may hold any program: it is not opened")
        if one.suffix == ".json":
            _check_classes(one)


def _check_classes(path: Path) -> None:
    check_size(path, _MAX_JSON_BYTES, "a description of a recording or sorting")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {one_line(error, 100)}") from None
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            name = value.get("class")
            if "kwargs" in value and "class" in value:
                _check_class(path, name)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(one for one in value if isinstance(one, (dict, list)))
        elif isinstance(value, str) and Path(value).suffix in _PICKLES:
            raise ValueError(f"{path} names the pickle {value!r:.80}: it is not opened")


def _check_class(path: Path, name: Any) -> None:
    from spikeinterface.core.base import BaseExtractor, _get_class_from_string

    refusal = ValueError(
        f"{path} names the class {name!r:.80}, which is no recording or sorting of SpikeInterface"
    )
    if not isinstance(name, str) or not _CLASS.fullmatch(name):
        raise refusal
    try:
        found = _get_class_from_string(name)
    except ImportError:
        raise refusal from None
    if not isinstance(found, type) or not issubclass(found, BaseExtractor):
        raise refusal


def _is_zarr(path: Path) -> bool:
    return path.suffix == ".zarr" or any((path / name).is_file() for name in (".zattrs", ".zgroup"))


def _check_zarr(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in set(names) & _ZARR_HEADERS:
            header = Path(folder, name)
            check_size(header, _MAX_JSON_BYTES, "a header")
            if re.search(rb'"(id|name)"\s*:\s*"[^"]*pickle', header.read_bytes()):
                raise ValueError(f"{header} holds a pickle, which may hold any program: it is not opened")


def check_hdf5(path: Path) -> None:
    """Refuse an HDF5 file whose parts lie in other files.

    Raises
    ------
    ValueError
    """
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return
    count = 0
    with h5py.File(path, "r") as file:
        left = [file["/"]]
        while left:
            group = left.pop()
            for name in group:
                count += 1
                if count > _MAX_OBJECTS:
                    raise ValueError(f"{path}: expected at most {_MAX_OBJECTS} objects, got more")
                link = group.get(name, getlink=True)
                where = f"{group.name.rstrip('/')}/{name}"
                if isinstance(link, h5py.ExternalLink):
                    raise ValueError(
                        f"{path}: {where} lies in another file, {link.filename!r:.80}: not followed"
                    )
                if isinstance(link, h5py.SoftLink):
                    continue  # what it points to is found where it lies
                found = group[name]
                if isinstance(found, h5py.Group):
                    left.append(found)
                elif isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
                    raise ValueError(f"{path}: the data of {where} lie in other files: not followed")
