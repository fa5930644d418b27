"""Tensors that may be larger than memory.

A large one lies in a file without a name on the disk, and is an ordinary tensor all the same: the
system reads a page when it is looked at, and gives its memory away when others need it. Nothing
has to be opened, closed or removed. The space on the disk goes with the last tensor that uses it,
also when the program is killed.
"""

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from helpers.errors import CannotWriteError

# Larger tensors go to the disk: 2,000 volumes of 4 mm, or 260 of 2 mm, stay in memory.
MOST_IN_MEMORY_BYTES = 2**30


def is_large(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> bool:
    """Say whether a tensor of this shape lies on the disk, and is computed with piece by piece.

    Examples
    --------
    >>> from helpers import tensors
    >>> tensors.is_large((200, 1, 48, 56, 48)), tensors.is_large((2000, 1, 96, 112, 96))
    (False, True)
    """
    return math.prod(shape) * dtype.itemsize > MOST_IN_MEMORY_BYTES


def zeros(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor of zeros: in memory, or, above a gigabyte, in a file without a name.

    The file lies in ``TMPDIR``, by default ``/var/tmp``. Each process that calls this has its own.

    Parameters
    ----------
    shape : sequence of int
    dtype : torch.dtype
        Default float32.

    Raises
    ------
    CannotWriteError
        If the disk has no room; it is reserved here, not when the tensor is filled.

    Examples
    --------
    >>> from helpers import tensors
    >>> tensors.zeros((2, 3)).sum()
    tensor(0.)
    """
    if not is_large(shape, dtype):
        return torch.zeros(shape, dtype=dtype)
    size, folder = math.prod(shape) * dtype.itemsize, _folder()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            # Shared: a private mapping counts as memory, and may not be larger than it.
            pages = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise CannotWriteError(
            f"cannot keep {size / 1e9:.1f} GB in {folder}: {error.strerror or error}; set TMPDIR "
            f"to a folder on a disk with more room"
        ) from error
    return torch.frombuffer(pages, dtype=dtype).view(*shape)


def rows(tensor: Tensor, positions: Int[Tensor, "row"]) -> Tensor:
    """Return a copy of some rows of a tensor, on the disk if they are large.

    Raises
    ------
    CannotWriteError
        As `zeros`.

    Examples
    --------
    >>> import torch
    >>> from helpers import tensors
    >>> tensors.rows(torch.arange(4), torch.tensor([3, 1]))
    tensor([3, 1])
    """
    shape = (len(positions), *tensor.shape[1:])
    if not is_large(shape, tensor.dtype):
        return tensor[positions]
    return torch.index_select(tensor, 0, positions, out=zeros(shape, tensor.dtype))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors one behind the other, on the disk if they are large together.

    Raises
    ------
    CannotWriteError
        As `zeros`.

    Examples
    --------
    >>> import torch
    >>> from helpers import tensors
    >>> tensors.joined([torch.zeros(1), torch.ones(2)])
    tensor([0., 1., 1.])
    """
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    if not is_large(shape, parts[0].dtype):
        return torch.cat(list(parts))
    return torch.cat(list(parts), out=zeros(shape, parts[0].dtype))


def _folder() -> Path:
    # On many systems /tmp is memory, which is what has to be spared.
    lasting = Path("/var/tmp")
    if "TMPDIR" not in os.environ and os.access(lasting, os.W_OK):
        return lasting
    return Path(tempfile.gettempdir())


def _reserve(file: int, size: int) -> None:
    """Make room, or say at once that there is none: later the system would end the program."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    room = os.fstatvfs(file) if hasattr(os, "fstatvfs") else None
    if room is not None and room.f_bavail * room.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(file, size)
