"""Loads Python objects (data readers, metrics) that the command line names as `module:attribute`."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from lwgraph.errors import DataError, UsageError, did_you_mean

_SPELLING = re.compile(r"(?P<module>[A-Za-z_][\w.]*|.+\.py):(?P<attribute>[A-Za-z_][\w.]*)")


def is_object_name(text: str) -> bool:
    """Whether `text` is spelled like `package.module:attribute` or `path/file.py:attribute`."""
    return _SPELLING.fullmatch(text) is not None


def load_object(text: str, what: str) -> Any:
    """The Python object that `text` names; the current folder is importable, as with `python -m`.

    Args:
        text: `package.module:attribute` or `path/file.py:attribute`; the attribute may be dotted. A file is run once.
        what: what it is for, to start the error message ("--metric").

    Raises:
        UsageError: not spelled so, or no such module or attribute.
        DataError: the module raises when it is imported.
    """
    spelled = _SPELLING.fullmatch(text)
    if spelled is None:
        raise UsageError(f"{what} '{text}' is not of the form module:attribute, e.g. my_project.data:reader")
    module = _import(spelled["module"], text, what)
    found: Any = module
    for part in spelled["attribute"].split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, [n for n in dir(found) if not n.startswith("_")])
            raise UsageError(f"{what} '{text}': {spelled['module']} has no attribute '{part}'{near}")
        found = getattr(found, part)
    return found


def _import(name: str, text: str, what: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            path = Path(name).resolve()
            if not path.is_file():
                raise UsageError(f"{what} '{text}': file '{name}' does not exist")
            known = sys.modules.get(name)
            if known is not None and known.__file__ == str(path):
                return known
            # Classes of the file are told by this name, which finds them again, and look up their annotations by it.
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            return module
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(
                f"{what} '{text}': no module named '{error.name}' in the current folder or installed"
            ) from error
        raise DataError(f"{what} '{text}': importing it failed: {error}") from error
    except Exception as error:
        raise DataError(f"{what} '{text}': importing it failed: {type(error).__name__}: {error}") from error
