"""Draw docs/images/layers.svg: the rooms of src/fmce, each above those that it imports from.

    python docs/draw_layers.py

A room's row is the longest chain of imports below it. Arrows that follow from others are left out: where
A needs B and B needs C, A needs C is not drawn.
"""

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PICTURE = ROOT / "src" / "fmce", ROOT / "docs" / "images" / "layers.svg"
WIDTH, BOX, ROW = 1000, (128, 34), 74
METHODS = {"maturity": "#2f6f4f", "fmce_net_pp": "#3b5b92", "distillation": "#a8481c"}

Graph = dict[str, set[str]]


def imports_of_rooms() -> Graph:
    """Return room → rooms that its files import from, also inside functions."""
    graph: Graph = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room.startswith("__"):
            continue
        below = graph.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            parts = [str(name).split(".") for name in names]
            below |= {p[1] for p in parts if p[0] == "fmce" and len(p) > 1} - {room}
    return graph


def rows_of(graph: Graph) -> dict[str, int]:
    """Return each room's row, 0 at the ground; the imports must have no circle."""
    rows: dict[str, int] = {}
    while len(rows) < len(graph):
        ready = [r for r, below in graph.items() if r not in rows and below <= rows.keys()]
        if not ready:
            raise ValueError(f"imports run in a circle among {sorted(graph.keys() - rows.keys())}")
        rows |= {room: max((rows[b] for b in graph[room]), default=-1) + 1 for room in ready}
    return rows


def reduced(graph: Graph, rows: dict[str, int]) -> Graph:
    """Return the graph without the arrows that follow from others."""
    reach: Graph = {}
    for room in sorted(rows, key=rows.__getitem__):
        reach[room] = graph[room].union(*(reach[b] for b in graph[room]))
    return {
        room: {b for b in below if not any(b in reach[other] for other in below)}
        for room, below in graph.items()
    }


def drawn(graph: Graph) -> str:
    """Return the picture as SVG."""
    rows = rows_of(graph)
    height = (max(rows.values()) + 1) * ROW
    centre: dict[str, tuple[float, float]] = {}
    for row in range(max(rows.values()) + 1):
        inside = sorted(room for room in rows if rows[room] == row)
        step = WIDTH / len(inside)
        for place, room in enumerate(inside):
            centre[room] = ((place + 0.5) * step, height - (row + 0.5) * ROW)
    lines = []
    for room, below in sorted(reduced(graph, rows).items()):
        x, y = centre[room]
        for other in sorted(below):
            to_x, to_y = centre[other]
            start, end = y + BOX[1] / 2, to_y - BOX[1] / 2 - 4
            bend = (end - start) / 2
            lines.append(
                f'<path d="M{x:.0f} {start:.0f}C{x:.0f} {start + bend:.0f} {to_x:.0f} {end - bend:.0f} '
                f'{to_x:.0f} {end:.0f}" fill="none" stroke="#9aa3ad" marker-end="url(#tip)"/>'
            )
    for room, (x, y) in sorted(centre.items()):
        fill = METHODS.get(room, "#eef1f4")
        ink = "#ffffff" if room in METHODS else "#1f2933"
        lines.append(
            f'<rect x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="6" '
            f'fill="{fill}" stroke="#c5ccd3"/><text x="{x:.0f}" y="{y + 5:.0f}" fill="{ink}">{escape(room)}</text>'
        )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#9aa3ad"/></marker></defs>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="14" text-anchor="middle">'
    )
    return "\n".join([head, tip, *lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(imports_of_rooms()), encoding="utf-8")
