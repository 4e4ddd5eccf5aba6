"""The manifest: what one version of an index consists of, as checksummed JSON.

A value and its bytes. It knows no directory (`commit.py`) and maps no file
(`segment.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import xxhash

from funnel.errors import CorruptIndexError, FormatVersionError
from funnel.kernels.codes import code_width
from funnel.store.matrix import FileEntry

MAJOR, MINOR = 1, 2
SEGMENTS, DELETED, NUMBERED = "segments", "deleted", "numbered"
TAILS = "tails"
KNOWN_FEATURES = frozenset({SEGMENTS, DELETED, NUMBERED, TAILS})
MAX_BYTES = 64 << 20
MAGIC = "FUNNEL-MANIFEST"


@dataclass(frozen=True)
class Segment:
    """Rows that were written together, with the graph over them.

    Parameters
    ----------
    id : str
        Prefix of its files' names.
    rows, nodes : int
        Rows, and graph nodes: rows whose vectors are equal share a node.
    blocks : tuple of int
        First dim of each column block, then full_dim.
    code_unit : float
        The coordinate that a code of 1 stands for.
    graph : dict
        How the graph was built: builder, M, ef_construction, seed, seconds, counts.
        Empty where codes are scanned.
    files : dict of FileEntry
        By role, as `FORMAT.md` lists them.
    first_id : int
        Id of its first row, the next ones following, where it has no file of ids.
    """

    id: str
    rows: int
    nodes: int
    blocks: tuple[int, ...]
    code_unit: float
    graph: dict[str, Any]
    files: dict[str, FileEntry]
    first_id: int = 0


@dataclass(frozen=True)
class Manifest:
    """One version of an index. Field by field in `FORMAT.md`."""

    uuid: str
    version: int
    parent: int
    created_unix: float
    writer: dict[str, str]
    full_dim: int
    dims: tuple[int, ...]
    norm_dims: tuple[int, ...]
    metric: str
    dtype: str
    transform: str | None
    id_kind: str
    projection: str
    graph_dim: int
    code_dim: int
    code_rows: int
    stage_rows: dict[str, int]
    rows: int
    segments: tuple[Segment, ...]
    files: dict[str, FileEntry] = field(default_factory=dict)
    tombstones: tuple[Any, ...] = ()
    plan: dict[str, Any] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    next_id: int = 0
    walk_dim: int = 0  # of the code's dims, those that a walk scores; 0: all
    writer_features: tuple[str, ...] = ()  # what a writer must know of, besides

    def __post_init__(self) -> None:
        if self.walk_dim == 0:
            object.__setattr__(self, "walk_dim", self.code_dim)

    @property
    def tail_width(self) -> int:
        """Bytes of a code beside those that a walk scores."""
        return code_width(self.code_dim - self.walk_dim)

    def features(self) -> list[str]:
        """Return what a reader must know of to read this version rightly."""
        named = any("ids" in s.files or s.first_id for s in self.segments)
        found = {
            SEGMENTS: len(self.segments) != 1,
            DELETED: "deleted" in self.files,
            NUMBERED: self.id_kind == "row" and named,
            TAILS: self.walk_dim != self.code_dim,
        }
        return [name for name, needed in found.items() if needed]

    def all_files(self) -> list[FileEntry]:
        """Return every data file that this version needs."""
        found = list(self.files.values())
        for segment in self.segments:
            found.extend(segment.files.values())
        return found

    def check_writer(self, folder: Path) -> None:
        """Raise if a later version of this index, in `folder`, is not ours to write.

        Raises
        ------
        FormatVersionError
            Naming what this version of funnel does not know.
        """
        if self.writer_features:
            raise FormatVersionError(
                f"to write to {folder} needs {', '.join(self.writer_features)}, which "
                "this version of funnel does not know: open it with mode='r', or "
                "upgrade funnel-index"
            )

    def to_bytes(self) -> bytes:
        """Return the file's content: a line with length and checksum, then JSON."""
        document: dict[str, Any] = {
            "format": {
                "major": MAJOR,
                "minor": MINOR,
                "reader_features": self.features(),
                "writer_features": list(self.writer_features),
            }
        }
        fields_ = asdict(self)
        del fields_["writer_features"]
        document.update(fields_)
        body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        line = f"{MAGIC} {MAJOR} {len(body)} {xxhash.xxh3_128_hexdigest(body)}\n"
        return line.encode() + body

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Manifest:
        """Return the manifest that `data` holds, or raise what is wrong with it."""
        line, _, body = data.partition(b"\n")
        words = line.decode("ascii", "replace").split(" ")
        if len(data) > MAX_BYTES or len(words) != 4 or words[0] != MAGIC:
            raise CorruptIndexError(f"{name} does not begin as a manifest does")
        if words[1] != str(MAJOR):
            raise FormatVersionError(
                f"{name} has format {words[1]}; this version of funnel reads {MAJOR}: "
                "upgrade funnel-index"
            )
        if words[2:] != [str(len(body)), xxhash.xxh3_128_hexdigest(body)]:
            raise CorruptIndexError(f"{name} does not match its checksum")
        try:
            document = json.loads(body, object_pairs_hook=_distinct)
            unknown = set(document["format"]["reader_features"]) - KNOWN_FEATURES
            manifest = None if unknown else _rebuild(document)
        except (ArithmeticError, AttributeError, LookupError, RecursionError,
                TypeError, ValueError) as error:  # fmt: skip
            raise CorruptIndexError(
                f"{name} is sealed, but no manifest: {type(error).__name__} {error}"
            ) from error
        if manifest is None:
            raise FormatVersionError(
                f"{name} needs {', '.join(sorted(map(str, unknown)))}, which this "
                "version of funnel does not know: upgrade funnel-index"
            )
        return manifest


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is there twice")
    return document


def _known(kind: type, document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that this version knows: a later minor one may add some."""
    return {f.name: document[f.name] for f in fields(kind) if f.name in document}


def _files(documents: dict[str, Any]) -> dict[str, FileEntry]:
    return {r: FileEntry(**_known(FileEntry, f)) for r, f in documents.items()}


def _rebuild(document: dict[str, Any]) -> Manifest:
    """Turn JSON's lists and dicts into the values they were."""
    out = _known(Manifest, document)
    needed = sorted(set(map(str, document["format"]["writer_features"])))
    out["writer_features"] = tuple(needed)
    for name in ("dims", "norm_dims", "tombstones"):
        out[name] = tuple(out[name])
    out["files"] = _files(out["files"])
    if "next_id" not in out and out["id_kind"] == "row":  # of minor 0
        out["next_id"] = out["rows"]
    out["segments"] = tuple(
        Segment(
            **{
                **_known(Segment, item),
                "blocks": tuple(item["blocks"]),
                "files": _files(item["files"]),
            }
        )
        for item in out["segments"]
    )
    return Manifest(**out)
