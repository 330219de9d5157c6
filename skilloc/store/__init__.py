"""Result folders: JSON and labelled arrays, written aside and renamed into place.

A result is a folder of four files. `spec.json` says what was asked, as canonical JSON; the first 16 hex digits of its
sha256 are the result's key. `metrics.json` holds plain numbers, `tensors.safetensors` holds arrays with the names of
their axes in the header. `manifest.json` holds the format version and the size and sha256 of the other three, so that
a cut or altered folder is recognised. Nothing is pickled and nothing is appended: a folder appears whole, by one
rename, or not at all.

JSON has no NaN and no infinity. In a spec they are refused; in metrics they become null, and are read back as None. An
array keeps them.
"""

from skilloc.store.aside import (
    MARK,
    aside_of,
    check_manifest,
    check_ours,
    check_seal,
    clear_leftovers,
    is_ours,
    placed,
    read_json,
    sealed,
    unsealed,
    with_seal,
    write_file,
    write_json,
    write_manifest,
)
from skilloc.store.folder import FORMAT, Result, is_complete, read, write
from skilloc.store.labels import Labelled
from skilloc.store.plain import canonical, key
from skilloc.store.rows import table
from skilloc.store.tied import check_request, check_tied
from skilloc.store.typed import axes_of, from_parts, load, save, to_parts
from skilloc.store.work import LOCK, AtWork, at_work, at_work_if_free, check_place, remove, working

__all__ = [
    "FORMAT",
    "LOCK",
    "MARK",
    "AtWork",
    "Labelled",
    "Result",
    "aside_of",
    "at_work",
    "at_work_if_free",
    "axes_of",
    "canonical",
    "check_manifest",
    "check_ours",
    "check_place",
    "check_request",
    "check_seal",
    "check_tied",
    "clear_leftovers",
    "from_parts",
    "is_complete",
    "is_ours",
    "key",
    "load",
    "placed",
    "read",
    "read_json",
    "remove",
    "save",
    "sealed",
    "table",
    "to_parts",
    "unsealed",
    "with_seal",
    "working",
    "write",
    "write_file",
    "write_json",
    "write_manifest",
]
