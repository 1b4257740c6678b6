"""What the book's reference pages are made from: the library's public names, and where each is described.

``public_names()`` says under which name a reader imports a thing; the API pages, the links from code words in the chapters
and the paper map all go by that name. A name is public if its module lists it in ``__all__``, or, in a module without one, if
it has no leading underscore and is defined there. Documented constants count too.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

# Helpers of the other modules: only what the top level exports is public.
INTERNAL = {"sdelib.ops"}
# The graders of single chapters are data of sdelib.exercises, not names to import.
UNLISTED = re.compile(r"sdelib\.exercises\.\w+|.*\.__main__")


@dataclass
class Public:
    """One public name: the path a reader imports, the module that defines it, the thing, its members with an entry."""

    path: str
    module: str
    kind: str  # function, class, exception, data
    thing: Any = field(repr=False)
    doc: str = field(repr=False)
    members: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of the docstring, on one line."""
        text = " ".join(self.doc.split("\n\n")[0].split())
        found = re.match(r".+?[.:](?= [A-Z(]|$)", text)
        return (found[0] if found else text).rstrip(":").rstrip(".") + "."


def modules() -> list[str]:
    """Every module of the library that has an entry, by name."""
    import sdelib

    found = (info.name for info in pkgutil.walk_packages(sdelib.__path__, "sdelib."))
    return sorted(name for name in found if not UNLISTED.fullmatch(name))


@cache
def attribute_docs(module: str) -> dict[tuple[str, str], str]:
    """Strings below assignments: {(class or "", name): text}, as Sphinx reads them."""
    source = inspect.getsource(importlib.import_module(module))
    found: dict[tuple[str, str], str] = {}

    def walk(body: list[ast.stmt], owner: str) -> None:
        for before, after in pairwise(body):
            if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                continue
            targets = before.targets if isinstance(before, ast.Assign) else []
            targets = [before.target] if isinstance(before, ast.AnnAssign) else targets
            for target in targets:
                if isinstance(target, ast.Name) and isinstance(after.value.value, str):
                    found[owner, target.id] = inspect.cleandoc(after.value.value)
        for node in body:
            if isinstance(node, ast.ClassDef):
                walk(node.body, node.name)

    walk(ast.parse(source).body, "")
    return found


def members(cls: type) -> tuple[str, ...]:
    """The methods, properties and documented fields that a class itself defines, in their order in the source."""
    documented = {name for owner, name in attribute_docs(cls.__module__) if owner == cls.__name__}
    names = [*vars(cls).get("__annotations__", {}), *vars(cls)]
    kinds = (property, classmethod, staticmethod)
    chosen = [
        name
        for name in dict.fromkeys(names)
        if not name.startswith("_")
        and (name in documented or inspect.isfunction(vars(cls).get(name)) or isinstance(vars(cls).get(name), kinds))
    ]
    return tuple(chosen)


def _kind(thing: object) -> str:
    if isinstance(thing, type) and thing.__module__.startswith("sdelib"):  # a shape's name is no class of ours
        return "exception" if issubclass(thing, BaseException) else "class"
    return "function" if inspect.isroutine(thing) else "data"


def _own_names(module: ModuleType) -> list[str]:
    documented = {name for owner, name in attribute_docs(module.__name__) if not owner}
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (
            name in documented
            or (
                _kind(thing) != "data"
                and getattr(thing, "__module__", None) == module.__name__
                and name == _name(thing)
            )
        )
    ]


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", "")


def _documented_elsewhere(own: str, thing: object) -> str:
    """The text below a constant that a module lifts from another one."""
    for name in modules():
        if getattr(importlib.import_module(name), own, None) is thing and ("", own) in attribute_docs(name):
            return attribute_docs(name)["", own]
    return ""


@cache
def public_names() -> dict[str, Public]:
    """Every public name by the path under which it is imported, modules in the alphabet and names in the source's order.

    A module with ``__all__`` comes before one without: what ``sdelib.plot`` lifts from its palette goes by plot's name.
    """
    import sdelib

    found: dict[str, Public] = {}
    for name in sorted(modules(), key=lambda m: (not hasattr(importlib.import_module(m), "__all__"), m)):
        module = importlib.import_module(name)
        for own in _own_names(module):
            thing, kind = getattr(module, own), _kind(getattr(module, own))
            exported = own in sdelib.__all__ and getattr(sdelib, own) is thing
            if name in INTERNAL and not exported:
                continue
            if any(p.thing is thing and p.path.rpartition(".")[2] == own for p in found.values()):
                continue
            doc = (inspect.getdoc(thing) or "") if kind != "data" else attribute_docs(name).get(("", own), "")
            found[f"sdelib.{own}" if exported else f"{name}.{own}"] = Public(
                f"sdelib.{own}" if exported else f"{name}.{own}",
                name,
                kind,
                thing,
                doc or (_documented_elsewhere(own, thing) if kind == "data" else ""),
                members(thing) if isinstance(thing, type) else (),
            )
    return found


def canonical_paths() -> dict[str, str]:
    """Every way to write a public name or a member of one, and the path of its entry."""
    paths: dict[str, str] = {}
    for path, public in public_names().items():
        ways = {path}
        if public.kind != "data":
            ways.add(f"{public.thing.__module__}.{public.thing.__qualname__}")
        ways.add(f"{public.module}.{path.rpartition('.')[2]}")
        for way in ways:
            paths[way] = path
            if isinstance(public.thing, type):
                for base in reversed(public.thing.__mro__):  # an inherited method leads to the base that describes it
                    owners = [p for p in public_names().values() if p.thing is base]
                    paths |= {f"{way}.{m}": f"{owner.path}.{m}" for owner in owners for m in owner.members}
    return paths


def described(root: Path) -> dict[str, list[str]]:
    """The modules that each page under book/api describes, by the page's name."""
    return {
        page.stem: re.findall(r"^\.\. api-module:: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        for page in sorted((root / "book" / "api").glob("*.md"))
    }


PAPER_EQUATION = re.compile(r"\beqs?\.\s*\(?\d", re.IGNORECASE)


def problems(root: Path) -> list[str]:
    """Public names without an entry, and entries that name an equation of the paper but do not show one."""
    pages = described(root)
    told = [module for listed in pages.values() for module in listed]
    found = [f"{module}: described twice" for module in sorted(set(told)) if told.count(module) > 1]
    known = modules()
    found += [f"{module}: on a page, but no module" for module in told if module not in known]
    for path, public in public_names().items():
        if public.module not in told:
            found.append(f"{path}: no page under book/api describes {public.module}")
        if not public.doc.strip():
            found.append(f"{path}: has no docstring")
        found += unshown(path, public.doc)
        for member in public.members:
            text = inspect.getdoc(inspect.getattr_static(public.thing, member, None)) or ""
            found += unshown(f"{path}.{member}", text)
    return found


def unshown(path: str, doc: str) -> list[str]:
    """What is wrong with an entry that names an equation: it has no ``.. math::``."""
    if PAPER_EQUATION.search(re.sub(r"``.*?``", "", doc)) and ".. math::" not in doc:
        return [f"{path}: the docstring names an equation of the paper and shows none (.. math::)"]
    return []
