"""Where a data set lies, and one clear line where it does not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flowprune.errors import DataError

ENVIRONMENT = "FLOWPRUNE_DATA"
_ADVICE = f"point --data-dir (data_dir) or {ENVIRONMENT} at it"


def data_root(name: str, data_dir: str | Path | None) -> Path:
    """The folder data sets are looked for in.

    Raises:
        DataError: none is named, or it is no folder.
    """
    given = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT)
    if not given:
        raise DataError(f"{name}: no data folder given; {_ADVICE}")
    root = Path(given).expanduser()
    if not root.is_dir():
        raise DataError(f"{name}: {root} is no folder; {_ADVICE}")
    return root


def data_folder(name: str, data_dir: str | Path | None, folder: str, needed: Sequence[str]) -> Path:
    """The folder ``folder`` of the data root (or the data root itself, if that is its name), with all of ``needed``
    in it.

    Raises:
        DataError: it is missing or half there.
    """
    root = data_root(name, data_dir)
    found = root if root.name == folder else root / folder
    if not found.is_dir():
        raise DataError(f"{name}: looked for {found}, which does not exist; {_ADVICE}")
    missing = [part for part in needed if not (found / part).exists()]
    if missing:
        raise DataError(f"{name}: {found} is half there, {', '.join(missing)} missing; unpack it again, or {_ADVICE}")
    return found


def found_beside_data(file: str, data_dir: str | Path | None) -> str:
    """``file`` where it is; else, if it is relative and lies in the data folder, its path there.

    So that a recipe can name weights that come with the data without naming a folder of one machine.
    """
    given = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT)
    if Path(file).exists() or not given:
        return file
    beside = Path(given).expanduser() / file
    return str(beside) if beside.exists() else file
