"""The structure of the package as its imports have it. `python tests/house.py [FOLDER]` prints it for a checkout."""

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules(package: Path = ROOT / "uadray") -> dict[str, Path]:
    """Every module but the `__init__` files, by its name without `uadray.`."""
    paths = [path for path in sorted(package.rglob("*.py")) if path.name != "__init__.py"]
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in paths}


@cache
def imported_names(path: Path) -> frozenset[str]:
    """Full names of all that is imported, in functions and under TYPE_CHECKING too; of `from a import b` a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def graph(package: Path = ROOT / "uadray") -> dict[str, set[str]]:
    """Module -> the modules of uadray that it imports."""
    paths = modules(package)
    return {
        name: {n.removeprefix("uadray.") for n in imported_names(path) if n.startswith("uadray.")} & paths.keys()
        for name, path in paths.items()
    }


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            start = stack.index(node)
            groups.append(sorted(stack[start:]))
            del stack[start:]

    for node in edges:
        if node not in index:
            visit(node)
    return [group for group in groups if len(group) > 1]


def floors(edges: dict[str, set[str]]) -> dict[str, int]:
    """Node -> its floor: 1 for what imports nothing, else one more than the highest that it imports.

    The nodes of a circle stand on one floor.
    """
    rooms = {node: frozenset([node]) for node in edges}
    rooms |= {node: frozenset(group) for group in circles(edges) for node in group}

    @cache
    def floor(room: frozenset[str]) -> int:
        below = {rooms[other] for node in room for other in edges[node]} - {room}
        return 1 + max(map(floor, below), default=0)

    return {node: floor(rooms[node]) for node in edges}


def rooms(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph of the package's folders and of the modules that lie in none."""
    top = {node: node.partition(".")[0] for node in edges}
    folded: dict[str, set[str]] = {name: set() for name in top.values()}
    for node, others in edges.items():
        folded[top[node]] |= {top[other] for other in others} - {top[node]}
    return folded


def functions(package: Path = ROOT / "uadray") -> list[tuple[int, str]]:
    """Lines and name of every function and method, the longest first."""
    found = [
        (node.end_lineno - node.lineno + 1, f"{name}.{node.name}")
        for name, path in modules(package).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    return sorted(found, reverse=True)


def main(folder: str = str(ROOT)) -> None:
    """Print floors, circles, and the longest files and functions."""
    package = Path(folder) / "uadray"
    edges = graph(package)
    lengths = sorted(((len(p.read_text().splitlines()), n) for n, p in modules(package).items()), reverse=True)
    for what, some in (("modules", edges), ("folders and single modules", rooms(edges))):
        print(f"{len(some)} {what} on {max(floors(some).values())} floors; circles: {circles(some) or 'none'}")
    print("longest files:", ", ".join(f"{name} {n}" for n, name in lengths[:10]))
    print("longest functions:", ", ".join(f"{name} {n}" for n, name in functions(package)[:10]))
    print(f"{sum(n > 300 for n, _ in lengths)} files over 300 lines, median {lengths[len(lengths) // 2][0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
