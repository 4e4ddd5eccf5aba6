"""Record what the writer of `workload.py` asks of the disk, by strace.

What comes out are operations on files and folders by number, as a file system has them,
in order: `powerloss.py` replays them. Reads are left out. It is taken for granted that
one process writes, and that a descriptor that is written is not read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from reliability.workload import LOG

ROOT = 0  # number of the folder that holds the index
AGAIN = ", again"  # in the role of a sync when nothing had changed
REPOSITORY = Path(__file__).resolve().parent.parent
# Nothing durable may be written by these: the model does not know what they leave.
FORBIDDEN = (
    "sendfile", "splice", "copy_file_range", "io_uring_setup", "fallocate", "truncate",
    "ftruncate", "symlink", "symlinkat", "pwritev", "pwritev2", "mmap",
)  # fmt: skip
FOLLOWED = ("close", "lseek", "dup", "dup2", "dup3", "fcntl")
WRITES, SYNCS = ("write", "writev", "pwrite64"), ("fsync", "fdatasync")
NAMING = (
    "open", "openat", "creat", "mkdir", "mkdirat", "link", "linkat", "rename",
    "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
)  # fmt: skip

LINE = re.compile(r"\d+ +(\w+)\((.*)\) += (\d+|0x[0-9a-f]+)\b")
HANDLE = re.compile(r"(\d+)<([^>]*)>")
TEXT = re.compile(r'"([^"]*)"')
NAMED = re.compile(r'(?:<([^>]*)>, )?"([^"]*)"')


@dataclass(frozen=True)
class Enter:
    """A folder gets an entry: a file or folder is made, or a link to it."""

    owner: int
    name: str
    inode: int


@dataclass(frozen=True)
class Leave:
    """A folder loses an entry."""

    owner: int
    name: str


@dataclass(frozen=True)
class Move:
    """An entry of a folder gets another name, at once."""

    owner: int
    name: str
    new_name: str


@dataclass(frozen=True)
class Write:
    """Bytes are written to a file."""

    owner: int
    at: int
    data: bytes


@dataclass(frozen=True)
class Sync:
    """A file's bytes, or a folder's entries, are made durable.

    Parameters
    ----------
    owner : int
        The file or folder.
    role : str
        Which kind of file or folder it is, for people.
    """

    owner: int
    role: str


@dataclass(frozen=True)
class Note:
    """The writer wrote a line to its log."""

    line: bytes


Change = Enter | Leave | Move | Write  # pending until their owner is synced
Op = Change | Sync | Note


@dataclass
class _Opened:
    inode: int
    at: int = 0


@dataclass
class Trace:
    """Operations in order, and what should not have been done.

    Parameters
    ----------
    root : str
        The folder that holds the index, without a slash at the end.
    """

    root: str
    ops: list[Op] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    _files: int = 0
    _opened: dict[int, _Opened] = field(default_factory=dict)
    _pending: dict[int, list[Change]] = field(default_factory=dict)
    _synced: set[int] = field(default_factory=set)

    def within(self, path: str) -> bool:
        """Tell whether a path is the root or below; the writer's log is not."""
        return f"{path}/".startswith(self.root + "/") and not path.endswith("/" + LOG)

    def place(self, path: str) -> tuple[int, str]:
        """Return the folder of a path below the root, and its name there."""
        *above, name = path[len(self.root) + 1 :].split("/")
        folder = ROOT
        for part in above:
            folder = self.folders[folder][part]
        return folder, name

    def inode(self, path: str) -> int | None:
        """Return the file or folder at a path, if there is one."""
        if path == self.root:
            return ROOT
        folder, name = self.place(path)
        return self.folders[folder].get(name)

    def do(self, change: Change) -> None:
        """Take in a change."""
        self.ops.append(change)
        self._pending.setdefault(change.owner, []).append(change)

    def make(self, path: str, *, folder: bool = False) -> int:
        """Make a file or folder; return its number."""
        self._files += 1
        if folder:
            self.folders[self._files] = {}
        self.link(path, self._files)
        return self._files

    def link(self, path: str, inode: int) -> None:
        """Give a file a name."""
        folder, name = self.place(path)
        self.folders[folder][name] = inode
        self.do(Enter(folder, name, inode))

    def remove(self, path: str) -> None:
        """Take a name away."""
        folder, name = self.place(path)
        del self.folders[folder][name]
        self.do(Leave(folder, name))

    def rename(self, path: str, new_path: str) -> None:
        """Give an entry another name in the same folder."""
        folder, name = self.place(path)
        new_folder, new_name = self.place(new_path)
        if folder != new_folder:
            self.forbidden.append(f"{path} moves to another folder: {new_path}")
            return
        inside = self.folders[folder]
        inside[new_name] = inside.pop(name)
        self.do(Move(folder, name, new_name))

    def open(self, handle: int, path: str, flags: str) -> None:
        """Open a file for writing; make it if it is not there."""
        inode = self.inode(path)
        if inode is None:
            inode = self.make(path)
        elif "O_TRUNC" in flags:
            self.forbidden.append(f"{path} is emptied")
        self._opened[handle] = _Opened(inode)

    def follow(self, call: str, handle: int, args: str, given: int) -> None:
        """Keep track of descriptors, and of where the next write goes."""
        if call == "close":
            self._opened.pop(handle, None)
        elif handle in self._opened and call == "lseek":
            self._opened[handle].at = given
        elif handle in self._opened and (call != "fcntl" or "F_DUPFD" in args):
            self._opened[given] = self._opened[handle]

    def write(self, handle: int, path: str, data: bytes, at: int | None = None) -> None:
        """Write where a descriptor stands, or at `at`."""
        file = self._opened[handle]
        if file.inode in self._synced:
            self.forbidden.append(f"{path} changes after it was synced")
        self.do(Write(file.inode, file.at if at is None else at, data))
        if at is None:
            file.at += len(data)

    def sync(self, path: str) -> None:
        """Sync a file or folder."""
        inode = self.inode(path)
        assert inode is not None, f"{path} is synced, which has no name any more"
        since = self._pending.pop(inode, [])
        if inode not in self.folders:
            self._synced.add(inode)
        self.ops.append(Sync(inode, role_of(path[len(self.root) :], since)))


def role_of(path: str, since: list[Change]) -> str:
    """Return what is synced: a data file's role or a folder, and if it had changed.

    Parameters
    ----------
    path : str
        Below the folder that holds the index.
    since : list of changes
        What was done to it since it was synced last.
    """
    parts = path.split("/")[1:]
    if len(parts) < 2:
        role = ("parent", "index folder")[len(parts)]
    elif parts[1] == "data":
        role = parts[2].split(".")[1] if len(parts) > 2 else "data/"
    elif parts[1] != "manifest":
        role = parts[1]
    elif len(parts) > 2:
        role = "manifest draft"
    else:
        published = any(isinstance(c, Enter) and c.name.endswith(".fm") for c in since)
        role = "manifest/" if published else "manifest/ after removal"
    return role if since else role + AGAIN


# ---- strace


def cannot_trace() -> str | None:
    """Return why strace cannot be used here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-f", "-o", os.devnull, "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"strace may not trace: {done.stderr}" if done.returncode else None


def scratch() -> str:
    """Return where temporary folders are to be: in memory, where there is such."""
    memory = "/dev/shm"
    return memory if os.access(memory, os.W_OK) else tempfile.gettempdir()


def record(folder: Path, seed: int) -> Trace:
    """Run the workload in `folder`, which is empty, and return what it did there."""
    folder = folder.resolve()
    log = folder.with_name(folder.name + ".strace")
    calls = [*FORBIDDEN, *FOLLOWED, *WRITES, *SYNCS, *NAMING]
    wanted = "trace=" + ",".join(f"?{call}" for call in calls)
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "100000000"]
    strace += ["-e", wanted, "-e", "signal=none", "-o", str(log)]
    writer = [sys.executable, "-m", "reliability.workload", str(folder), str(seed)]
    try:
        subprocess.run(strace + writer, check=True, cwd=REPOSITORY)
        trace = Trace(str(folder))
        for line in _whole_lines(log):
            read_line(trace, line)
    finally:
        log.unlink(missing_ok=True)
    return trace


def _whole_lines(log: Path) -> Iterator[str]:
    """Yield strace's lines; those in two parts as one, in the place of the second."""
    begun: dict[str, str] = {}
    with log.open() as lines:
        for line in map(str.rstrip, lines):
            thread = line.split(" ", 1)[0]
            if line.endswith("<unfinished ...>"):
                begun[thread] = line.removesuffix("<unfinished ...>").rstrip()
            elif "resumed>" in line:
                yield begun.pop(thread) + line.partition("resumed>")[2]
            else:
                yield line


def read_line(trace: Trace, line: str) -> None:
    """Add to a trace what one line of strace's says; calls that failed say nothing."""
    found = LINE.match(line)
    if found is None:
        return
    call, args, given = found[1], found[2], int(found[3], 0)
    first = HANDLE.match(args)
    handle, path = (int(first[1]), _plain(first[2])) if first else (-1, "")
    if call in FORBIDDEN:
        _forbid(trace, call, args)
    elif call in FOLLOWED:
        trace.follow(call, handle, args, given)
    elif call in SYNCS and trace.within(path):
        trace.sync(path)
    elif call in WRITES:
        data = b"".join(_bytes(text) for text in TEXT.findall(args))[:given]
        if trace.within(path):
            at = int(args.rpartition(",")[2]) if call == "pwrite64" else None
            trace.write(handle, path, data, at)
        elif path == f"{trace.root}/{LOG}":
            trace.ops.append(Note(data))
    elif call in NAMING:
        paths = [os.path.join(*map(_plain, named)) for named in NAMED.findall(args)]  # noqa: PTH118
        if all(map(trace.within, paths)):
            _name(trace, call, paths, args, given)


def _name(trace: Trace, call: str, paths: list[str], args: str, given: int) -> None:
    """Take in a call that makes, moves or removes names, or opens one."""
    if call.startswith("mkdir"):
        trace.make(paths[0], folder=True)
    elif call.startswith("link"):
        inode = trace.inode(paths[0])
        assert inode is not None, f"{paths[0]} is linked, which was never made"
        trace.link(paths[1], inode)
    elif call.startswith("rename"):
        trace.rename(*paths)
    elif call.startswith(("unlink", "rmdir")):
        trace.remove(paths[0])
    elif call == "creat" or "O_RDONLY" not in args:
        trace.open(given, paths[0], args)


def _forbid(trace: Trace, call: str, args: str) -> None:
    """Note a call that must not be used below the root."""
    shared = "PROT_WRITE" in args and "MAP_SHARED" in args
    texts = [*(h for _, h in HANDLE.findall(args)), *TEXT.findall(args)]
    inside = any(trace.within(_plain(text)) for text in texts)
    if call == "io_uring_setup" or (inside and (call != "mmap" or shared)):
        trace.forbidden.append(f"{call} is called below {trace.root}")


def _bytes(text: str) -> bytes:
    """Return what strace wrote as hexadecimal escapes."""
    return bytes.fromhex(text.replace("\\x", ""))


def _plain(text: str) -> str:
    return os.fsdecode(_bytes(text)) if text.startswith("\\x") else text
