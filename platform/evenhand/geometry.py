"""One owner of geometry: where voxels lie in the patient, in float64.

`ras_from_voxel` maps voxel indices (i, j, k) to millimetres in the scanner's
right-anterior-superior frame, as NIfTI does. The affine is copied on the way in
and read-only afterwards.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand.errors import DataError

__all__ = ["Affine"]


@dataclass(frozen=True, eq=False)
class Affine:
    """An invertible 4 x 4 map from voxel indices to RAS millimetres."""

    ras_from_voxel: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Copy, check and freeze the matrix."""
        matrix = np.array(self.ras_from_voxel, dtype=np.float64, copy=True)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise DataError(f"An affine must be 4 x 4 and finite; got shape {matrix.shape}.")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise DataError("An affine must be invertible; this one flattens the volume.")
        matrix.setflags(write=False)
        object.__setattr__(self, "ras_from_voxel", matrix)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along i, j, k, in millimetres."""
        i, j, k = np.linalg.norm(self.ras_from_voxel[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel in cubic millimetres, also where its edges are not at right angles."""
        return abs(float(np.linalg.det(self.ras_from_voxel[:3, :3])))

    @property
    def is_rectangular(self) -> bool:
        """Whether the axes stand at right angles, to a thousandth; a tilted gantry's do not."""
        directions = self.ras_from_voxel[:3, :3] / self.spacing_mm
        return bool(np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=1e-3))

    @property
    def left_right_axis(self) -> int:
        """The voxel axis (0, 1 or 2) that runs most nearly between the patient's sides."""
        return int(np.abs(self.ras_from_voxel[0, :3] / self.spacing_mm).argmax())

    def is_close(self, other: "Affine", *, atol_mm: float = 1e-3) -> bool:
        """Whether two affines agree to `atol_mm` in every entry."""
        return bool(np.allclose(self.ras_from_voxel, other.ras_from_voxel, rtol=0, atol=atol_mm))
