"""What a class of Lamina, Ray Tune or PEFT declares, read from its file without running it.

Most settings classes stand beside code that needs torch, which takes seconds to import. The keys of
a job, their types and the cards of strategies are in the text of the files already: annotated
fields, arguments, class attributes, docstrings. An expression there is evaluated with what its file
imports from the standard library, and from other files that are read the same way.
"""

import ast
import builtins
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lamina.registry import folders_of

NO_DEFAULT = object()
_READ = ("lamina", "ray", "peft")
"""Packages whose classes are read from their files."""
_SLOW = ("torch", "transformers", "numpy", "opacus", "pandas", "accelerate")
"""Packages that are slow to import, and of which nothing is known here."""


class Declared(NamedTuple):
    """A setting of a class, as far as it is known before it has a value."""

    hint: Any
    """Its type."""
    default: Any
    """NO_DEFAULT where a job must give it; None where a function makes it."""


class Outline:
    """A class as its file declares it. Its class attributes are attributes here too."""

    def __init__(self, source: "_Source", node: ast.ClassDef) -> None:
        self._source = source
        self._node = node

    @property
    def card(self) -> str:
        """The docstring of its file."""
        return (ast.get_docstring(self._source.tree) or "").strip()

    def __or__(self, other: Any) -> Any:
        """As a type, any value: nothing is known of it before it is imported."""
        return Any

    def is_a(self, name: str) -> bool:
        """Whether it inherits from the class of Lamina called `name`."""
        return any(each._node.name == name or each.is_a(name) for each in self._bases())

    def settings(self) -> dict[str, Declared]:
        """The fields that a job may set: as `fields.settings_of` finds them on the class itself."""
        found = {name: each for base in self._bases() for name, each in base.settings().items()}
        for name, node in self._fields():
            default = self._default(node.value, _options(node.value))
            found[name] = Declared(self._source.evaluate(node.annotation), default)
        return found

    def field_names(self) -> list[str]:
        """The names of those fields, whatever their types are."""
        found = [name for base in self._bases() for name in base.field_names()]
        return list(dict.fromkeys([*found, *(name for name, _ in self._fields())]))

    def arguments(self) -> dict[str, Any]:
        """What its `__init__`, its own or inherited, takes by name, with the types; Any for a type
        that is not known here."""
        for node in self._node.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                given = [*node.args.args[1:], *node.args.kwonlyargs]
                return {each.arg: self._source.type_of(each.annotation) for each in given}
        return next((each.arguments() for each in self._bases()), {})

    def constants(self) -> dict[str, Any]:
        """Its class attributes that have no annotation: the members of an enumeration."""
        return {
            ast.unparse(target): self._source.evaluate(node.value)
            for node in self._node.body
            if isinstance(node, ast.Assign)
            for target in node.targets
        }

    def _fields(self) -> Iterator[tuple[str, ast.AnnAssign]]:
        for node in self._node.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            name = node.target.id
            if name.startswith("_") or "ClassVar" in ast.unparse(node.annotation):
                continue
            if not _is_false((_options(node.value) or {}).get("init")):
                yield name, node

    def __getattr__(self, name: str) -> Any:
        """A class attribute, its own or inherited."""
        for node in reversed(self._node.body):
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            else:
                continue
            named = any(isinstance(each, ast.Name) and each.id == name for each in targets)
            if named and node.value is not None:
                return self._source.evaluate(node.value)
        for base in self._bases():
            try:
                return getattr(base, name)
            except AttributeError:
                continue
        raise AttributeError(f"{self._node.name} has no {name!r}")

    def _bases(self) -> Iterator["Outline"]:
        for each in self._node.bases:
            base = self._source[each.id] if isinstance(each, ast.Name) else None
            if isinstance(base, Outline):
                yield base

    def _default(self, value: ast.expr | None, options: Mapping[str, ast.expr] | None) -> Any:
        if options is None:
            return NO_DEFAULT if value is None else self._source.evaluate(value)
        if "default" in options:
            return self._source.evaluate(options["default"])
        return None if "default_factory" in options else NO_DEFAULT


def _options(value: ast.expr | None) -> dict[str, ast.expr] | None:
    """The arguments of `field(...)`; None where a default is given plainly, or none."""
    is_field = isinstance(value, ast.Call) and ast.unparse(value.func) == "field"
    if not is_field:
        return None
    assert isinstance(value, ast.Call)
    return {each.arg: each.value for each in value.keywords if each.arg is not None}


def _is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


class _Source(dict[str, Any]):
    """The names of a file, each with its value once it is asked for."""

    def __init__(self, path: Path, module: str) -> None:
        super().__init__()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self._package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.defined: dict[str, ast.stmt] = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom):
                self.defined |= {each.asname or each.name: node for each in node.names}
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self.defined[ast.unparse(target)] = node
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.defined[node.name] = node

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression."""
        code = compile(ast.Expression(node), "<outline>", "eval")
        return eval(code, {"__builtins__": {}}, self)

    def type_of(self, annotation: ast.expr | None) -> Any:
        """A type that another package may have written: Any where it needs what is not known."""
        try:
            found = None if annotation is None else self.evaluate(annotation)
        except (AttributeError, ImportError, TypeError):
            found = None
        return Any if found is None else found

    def __missing__(self, name: str) -> Any:
        self[name] = self._find(name)
        return self[name]

    def _find(self, name: str) -> Any:
        node = self.defined.get(name)
        if isinstance(node, ast.ClassDef):
            return Outline(self, node)
        if isinstance(node, ast.Assign):
            return self.evaluate(node.value)
        if isinstance(node, ast.ImportFrom):
            return self._imported(node, name)
        if isinstance(node, ast.FunctionDef):
            return self._returned(node)
        if node is None and hasattr(builtins, name):
            return getattr(builtins, name)
        return None

    def _imported(self, node: ast.ImportFrom, name: str) -> Any:
        (original,) = [each.name for each in node.names if name in (each.asname, each.name)]
        above = self._package.split(".")
        near = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
        return _imported(".".join(filter(None, [near, node.module])), original)

    def _returned(self, node: ast.FunctionDef) -> Any:
        """The class that a function imports and returns; None of any other function."""
        last = node.body[-1]
        if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Name):
            return None
        for each in node.body:
            if isinstance(each, ast.ImportFrom) and last.value.id in [a.name for a in each.names]:
                return self._imported(each, last.value.id)
        return self[last.value.id] if last.value.id in self.defined else None


def _imported(module: str, name: str) -> Any:
    """What `from module import name` gives: of classes that are read an outline, of Lamina's
    functions and of other packages the thing itself; None of packages that are slow to import."""
    package = module.partition(".")[0]
    if package in _READ:
        source = source_of(module)
        is_function = isinstance(source.defined.get(name), ast.FunctionDef)
        own = is_function and package == "lamina"
        return getattr(import_module(module), name) if own else source[name]
    if package in _SLOW:
        return None
    return getattr(import_module(module), name)


@cache
def source_of(module: str) -> _Source:
    """A module's file, read. Raises ModuleNotFoundError."""
    package, _, name = module.rpartition(".")
    for folder in _folders_of(package):
        for path in (Path(folder, f"{name}.py"), Path(folder, name, "__init__.py")):
            if path.is_file():
                return _Source(path, module)
    raise ModuleNotFoundError(f"no file for {module}")


def _folders_of(package: str) -> list[str]:
    """Where the modules of a package are. Nothing is imported: not even the package above one, as
    `find_spec` would."""
    top, *below = package.split(".")
    if top == "lamina":
        return folders_of(package)
    spec = find_spec(top)
    roots = (spec.submodule_search_locations if spec else None) or []
    return [str(Path(root, *below)) for root in roots]


def outline_of(module: str, name: str) -> Outline:
    """The class `name` of a module."""
    found = source_of(module)[name]
    assert isinstance(found, Outline), f"{module} defines no class {name}"
    return found


def member_outline(package: str, member: str, base: str) -> Outline:
    """The one subclass of `base` in a member of a package."""
    source = source_of(f"{package}.{member}")
    classes = [name for name, node in source.defined.items() if isinstance(node, ast.ClassDef)]
    found = [source[name] for name in classes if source[name].is_a(base)]
    assert len(found) == 1, f"{package}.{member} must define exactly one {base}"
    outline: Outline = found[0]
    return outline
