"""Check what ruff's rules cannot: that public docstrings speak of what a caller meets.

For every public function, class and method that a module of sdelib defines:

- each parameter is named in the docstring (a class's docstring, or its __init__'s, for a constructor; a method may rely on
  its class's docstring or on the method of the base class that it overrides);
- a function whose own body raises a ValueError or TypeError says so under "Raises:" or with the words "raises" or "refuses";
- one that leaves both to another ("arguments as for :func:`langevin`") may.

Exit status 1 with one line a finding.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType

import sdelib

# Words with one meaning in the whole library, which the book's notation page explains.
SPOKEN_OF_ONCE = {"self", "cls", "generator", "device", "dtype", "args", "kwargs", "ax", "role"}
SPOKEN_OF_ONCE |= {"x", "x0", "xT", "t", "s", "t_next", "noise", "score", "net", "noising", "sde"}
INTERNAL = {"sdelib.ops"}  # helpers of the other modules; what they raise is told where it reaches a caller
RAISED = {"ValueError", "TypeError"}


def modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(sdelib.__path__, "sdelib."):
        if info.name not in INTERNAL:
            yield importlib.import_module(info.name)


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name, thing in vars(module).items():
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__:
            yield f"{module.__name__}.{name}", thing


def unnamed(function: FunctionType, text: str) -> list[str]:
    names = [p for p in inspect.signature(function).parameters if p not in SPOKEN_OF_ONCE and not p.startswith("_")]
    return [p for p in names if not re.search(rf"(?<![A-Za-z0-9]){re.escape(p)}(?![A-Za-z0-9])", text)]


def raises(function: FunctionType) -> bool:
    """Whether the body itself, without the functions defined in it, raises one of RAISED."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id in RAISED:
                return True
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            todo.extend(ast.iter_child_nodes(node))
    return False


def findings(where: str, function: FunctionType, context: str) -> Iterator[str]:
    text = f"{inspect.getdoc(function) or ''}\n{context}"
    if re.search(r"(see|as for) :(func|class|meth):", text):
        return
    if missing := unnamed(function, text):
        yield f"{where}: the docstring does not speak of {', '.join(missing)}"
    if raises(function) and not re.search(r"\b(raises|refuses?)\b", text, re.I):
        yield f"{where}: raises errors that its docstring does not name"


def examine(where: str, thing: object) -> Iterator[str]:
    if isinstance(thing, FunctionType):
        yield from findings(where, thing, "")
    elif isinstance(thing, type) and not issubclass(thing, BaseException):
        context = inspect.getdoc(thing) or ""
        for name, member in vars(thing).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not isinstance(function, FunctionType) or function.__module__ != thing.__module__:
                continue
            if name == "__init__" and function.__qualname__ == f"{thing.__qualname__}.__init__":
                if "__dataclass_fields__" not in vars(thing):
                    yield from findings(where, function, context)
            elif not name.startswith("_"):
                inherited = "\n".join(inspect.getdoc(vars(b)[name]) or "" for b in thing.__mro__[1:] if name in vars(b))
                yield from findings(f"{where}.{name}", function, f"{context}\n{inherited}")


def main() -> int:
    things = [pair for module in modules() for pair in public(module)]
    found = [line for where, thing in things for line in examine(where, thing)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"docstrings: {len(things)} public names, {len(found)} findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
