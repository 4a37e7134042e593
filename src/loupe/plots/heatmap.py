"""Draw a table of numbers over layers and tokens as a labelled heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heatmap(
    values: Any,
    *,
    columns: Sequence[str],
    title: str,
    quantity: str,
    rows: Sequence[object] | None = None,
    row_title: str = "layer",
    column_title: str = "token",
    file: str | Path | None = None,
) -> Figure:
    """Draw `values` `[rows, columns]` with a name on each row and column, a title and a colour bar; zero is white.

    >>> figure = heatmap(torch.randn(12, 5), columns=["The", " E", "iff", "el", " Tower"], title="patching",
    ...                  quantity="logit difference", file="patching.png")

    `quantity` names what is drawn, beside the colour bar. `rows` defaults to 0, 1, 2, …, the first one at the top.
    `file` is where a picture is written, in the format of its suffix. Needs matplotlib (`pip install loupe[plots]`).
    Raises InputError where the names do not fit the values.
    """
    import numpy as np
    from matplotlib.figure import Figure

    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or 0 in table.shape:
        raise InputError(
            f"a heat map is drawn of a table, not of shape {list(table.shape)}", remedy="pass [rows, columns]"
        )
    names = [str(row) for row in rows] if rows is not None else [str(row) for row in range(table.shape[0])]
    if len(columns) != table.shape[1] or len(names) != table.shape[0]:
        raise InputError(
            f"{len(names)} row names and {len(columns)} column names are given for a table of {list(table.shape)}",
            remedy="give one name for each row and each column",
        )
    height, width = 1.6 + 0.32 * table.shape[0], 2.6 + 0.75 * table.shape[1]
    figure = Figure(figsize=(max(width, 5.5), max(height, 3.2)), layout="constrained")
    axes = figure.subplots()
    limit = float(np.nanmax(np.abs(table))) or 1.0
    image = axes.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [show_token(name) for name in columns], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(column_title)
    axes.set_ylabel(row_title)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label=quantity)
    if file is not None:
        figure.savefig(str(file), dpi=150)
    return figure


def show_token(token: str) -> str:
    """A token as a label: a leading space becomes visible, line breaks are escaped."""
    return token.replace("\n", "\\n").replace("$", r"\$").replace(" ", "·")
