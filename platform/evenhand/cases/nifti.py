"""Volumes as NIfTI files: written the same bytes each time, read with their trouble named."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from evenhand.geometry import Affine

__all__ = ["READ_ERRORS", "write_nifti"]

READ_ERRORS = (OSError, EOFError, zlib.error, ValueError, ImageFileError)
"""What nibabel raises when a file is truncated, damaged or not NIfTI at all."""


def write_nifti(path: Path, voxels: NDArray[Any], affine: Affine) -> None:
    """Write a volume (i, j, k) as gzipped NIfTI-1; equal input gives equal bytes.

    Args:
        path: ends in `.nii.gz`.
        voxels: stored in their own type.
        affine: of the volume.

    Raises:
        OSError: the file cannot be written.
    """
    image = nib.Nifti1Image(voxels, affine.ras_from_voxel, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    if not np.issubdtype(voxels.dtype, np.floating):
        image.header.set_slope_inter(1, 0)
    # Speed matters more than the last percent of size: level 1 writes 4 times faster than 9.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
