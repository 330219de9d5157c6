"""One table over many results, rebuilt whenever it is asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skilloc.store.aside import MANIFEST
from skilloc.store.folder import METRICS, SPEC, verified

if TYPE_CHECKING:
    import pandas


def table(root: Path) -> "pandas.DataFrame":
    """Return one row per result under `root`, at any depth, ordered by folder.

    Columns are `spec.*`, then `metrics.*`, nested keys joined by dots; the index is the folder relative to `root`.
    Hidden folders are left out. Specs and metrics are verified, of the arrays only the size.

    Raises:
        FileNotFoundError: if `root` is not there.
        ValueError: if a result is incomplete, cut or altered; the message names it.
    """
    # Late: pandas takes a second to import, and writing results does not need it.
    import pandas

    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"`root` {root} is not a folder; pass the folder that holds the results")
    folders = {path.parent.relative_to(root) for name in (SPEC, MANIFEST) for path in root.rglob(name)}
    shown = sorted(str(folder) for folder in folders if not any(part.startswith(".") for part in folder.parts))
    rows = []
    for folder in shown:
        files = verified(root / folder, (SPEC, METRICS))
        rows.append(_flat({"spec": json.loads(files[SPEC]), "metrics": json.loads(files[METRICS])}))
    columns = sorted({column for row in rows for column in row}, key=lambda name: (not name.startswith("spec."), name))
    return pandas.DataFrame(rows, index=pandas.Index(shown, name="result", dtype="str"), columns=columns)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
