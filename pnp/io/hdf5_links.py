"""Read an untrusted HDF5 file together with the files beside it that it names by relative links.

Scans of synchrotrons are often a master file whose links and virtual datasets name data in the same folder. What is
asked for is resolved link by link, so that a link that nobody asks for may point nowhere:

    hard and soft links   are followed within their file
    external links        are followed to a regular file in the folder of the first file or below, by a relative name;
                          symbolic links are resolved before that is decided
    virtual datasets      are read where all of their sources are there, in such files
    external storage      is never read: any file's bytes would pass for numbers
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

import h5py

from .guards import check_file, file_within, one_line, reading
from .hdf5_safe import check_heaps, check_stored

_MAX_HOPS = 32
"""Links followed on the way to one object; more is a circle."""
_MAX_FILES = 1000
"""Other files opened for the links of one."""
_MAX_SOURCES = 100_000
"""Sources of a virtual dataset; scans have one for each frame at most."""
_MAX_DEPTH = 4
"""Virtual datasets of virtual datasets."""
_REMEDY = "other files are not read through this one: copy its data into one file, see docs/bring_your_data_ct.md"

Node: TypeAlias = h5py.Group | h5py.Dataset


class LinkedFile:
    """An open HDF5 file whose objects are reached by safe links only.

    Attributes:
        path: the file, for messages.
        root: its root group.
        others: names of the other files that were opened, relative to the folder.
        broken: links that point nowhere, among those followed: name to target.
    """

    def __init__(self, path: str | os.PathLike[str], root: h5py.File, stack: ExitStack) -> None:
        self.path, self.root, self.others, self.broken = path, root, set[str](), dict[str, str]()
        self._stack, self._folder = stack, Path(path).resolve().parent
        self._open: dict[Path, h5py.File] = {Path(path).resolve(): root}
        self._checked, self._hops = set[h5py.Dataset](), 0

    def get(self, name: str, group: h5py.Group | None = None) -> Node | None:
        """Return an object by its path below a group (the root), or None where there is none or a link is broken.

        Raises:
            ValueError: the way to it leads to a file outside of the folder, or its values are stored there.
        """
        found = self._find(self.root if group is None else group, name)
        if isinstance(found, h5py.Dataset):
            self._check_storage(found, _MAX_DEPTH)
        return found

    def dataset(self, name: str, group: h5py.Group | None = None) -> h5py.Dataset | None:
        """Return a dataset, see `get`; None for anything else."""
        found = self.get(name, group)
        return found if isinstance(found, h5py.Dataset) else None

    def groups(self, group: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
        """Yield the groups in a group, by name; links that are broken or lead away are passed over."""
        for name in sorted(group):
            try:
                found = self._find(group, name)
            except ValueError:
                continue
            if isinstance(found, h5py.Group):
                yield name, found

    def check_stored(self, dataset: h5py.Dataset, shape: Sequence[int], remedy: str) -> None:
        """Refuse a part of a dataset, of this shape, that claims more than the files or the memory can hold."""
        held = sum(file.id.get_filesize() for file in self._open.values()) if dataset.is_virtual else None
        check_stored(self.path, dataset, shape, remedy, held=held)

    def _find(self, start: h5py.Group, name: str) -> Node | None:
        self._hops = _MAX_HOPS
        return self._walk(start, name)

    def _walk(self, start: h5py.Group, name: str) -> Node | None:
        node: Node | None = start.file["/"] if name.startswith("/") else start
        for part in name.split("/"):
            if part in ("", "."):
                continue
            if not isinstance(node, h5py.Group) or self._hops <= 0 or part == "..":
                return None
            links, key = node.id.links, part.encode("utf-8", "surrogateescape")
            # Asking h5py whether a name is in a group opens the file of an external link.
            if not links.exists(key):
                return None
            kind = links.get_info(key).type
            if kind == h5py.h5l.TYPE_HARD:
                found = node[part]
                node = found if isinstance(found, Node) else None
                continue
            self._hops -= 1
            where = f"{node.name.rstrip('/')}/{part}"
            if kind == h5py.h5l.TYPE_SOFT:
                target = os.fsdecode(links.get_val(key))
                node = self._walk(node, target)
            elif kind == h5py.h5l.TYPE_EXTERNAL:
                file_name, inner = (os.fsdecode(text) for text in links.get_val(key))
                target = f"{file_name}::{inner}"
                other = self._file(f"{where} is an external link", file_name, node)
                node = None if other is None else self._walk(other["/"], inner)
            else:
                return None
            if node is None:
                self.broken[one_line(where, 60)] = one_line(target, 60)
        return node

    def _file(self, what: str, name: str, where: Node) -> h5py.File | None:
        """Return another file, open, that an object of the file of `where` names; None if there is no such file."""
        if name in (".", ""):
            return where.file
        wanted = Path(os.fsdecode(where.file.filename)).resolve().parent / name
        absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
        found = None if absolute or "%" in name else file_within(self._folder, str(wanted))
        if found is None:
            if not absolute and not os.path.lexists(wanted):
                return None
            raise ValueError(
                f"{self.path}: {one_line(what, 80)} to {one_line(name, 60)!r}, beyond its folder; {_REMEDY}"
            )
        if found not in self._open:
            if len(self._open) > _MAX_FILES:
                raise ValueError(f"{self.path} names over {_MAX_FILES} other files; copy its data into one file")
            check_heaps(found)
            with reading(found, "HDF5"):
                self._open[found] = self._stack.enter_context(h5py.File(found, "r"))
            self.others.add(found.relative_to(self._folder).as_posix())
        return self._open[found]

    def _check_storage(self, dataset: h5py.Dataset, depth: int) -> None:
        """Refuse a dataset whose values lie in files that are not read, or are not there."""
        if dataset in self._checked:
            return
        self._checked.add(dataset)
        layout = dataset.id.get_create_plist()
        where = one_line(dataset.name, 60)
        if layout.get_external_count():
            raise ValueError(f"{self.path}: {where!r} is stored in another file (external=); {_REMEDY}")
        if layout.get_layout() != h5py.h5d.VIRTUAL:
            return
        n = layout.get_virtual_count()
        if depth == 0 or n > _MAX_SOURCES:
            raise ValueError(
                f"{self.path}: {where!r} is made of too many virtual datasets; copy its data into one file"
            )
        sources = {(layout.get_virtual_filename(k), layout.get_virtual_dsetname(k)) for k in range(n)}
        for name, inner in sorted(sources):
            other = self._file(f"{where} is a virtual dataset", name, dataset)
            source = None if other is None else self._find(other["/"], inner)
            if not isinstance(source, h5py.Dataset):  # the library would read it as zeros
                raise ValueError(
                    f"{self.path}: {where!r} is a virtual dataset whose source {one_line(f'{name}::{inner}', 80)!r} is "
                    "not there; put that file beside this one"
                )
            self._check_storage(source, depth - 1)


@contextmanager
def open_linked(path: str | os.PathLike[str]) -> Iterator[LinkedFile]:
    """Open an HDF5 file of which only safe links are followed; whatever goes wrong becomes one ValueError."""
    file = check_file(path)
    check_heaps(path)
    with reading(path, "HDF5"), ExitStack() as stack:
        yield LinkedFile(path, stack.enter_context(h5py.File(file, "r")), stack)
