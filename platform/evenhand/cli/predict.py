"""`evenhand predict ADAPTER IMAGE`: a mask for one case that is in no store and no run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenhand.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evenhand.geometry import Affine
    from evenhand.model.adapted import AdaptedModel

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `predict` to the root."""
    app.command("predict")(_predict)


def _predict(
    adapter: Annotated[Path, typer.Argument(help="A trained adapter (.safetensors).")],
    image: Annotated[
        Path, typer.Argument(help="The sequence that feeds the backbone, NIfTI; or a PNG.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="The mask: .nii.gz, of a PNG .png; replaced if there.")],
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A further sequence of the adapter; repeatable."),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="K,X0,Y0,X1,Y1",
            help="One box: slice number from 0, columns and rows in voxels. The mask is carried "
            "on from there. Without it every slice is searched.",
        ),
    ] = None,
    probability: Annotated[
        Path | None,
        typer.Option(help="Also write probabilities, likewise; of several labels a file each."),
    ] = None,
) -> None:
    """Segment one image: without a prompt, or from one box on one slice.

    An adapter that finds several labels writes their numbers, from 1 in its order.

    Example: evenhand predict adapter.safetensors flair.nii.gz --out mask.nii.gz

    Example: evenhand predict adapter.safetensors ultrasound.png --out mask.png

    Example: evenhand predict adapter.safetensors flair.nii.gz --box 17,90,60,140,110 --out m.nii.gz
    """
    from evenhand.experiment.layout import model_of_adapter
    from evenhand.predict import (
        OpenCase,
        predict_automatic,
        predict_from_slice,
        predict_labels,
        together,
    )

    ending = ".png" if _is_picture(image) else ".nii.gz"
    for path in (out, probability):
        if path is not None and not path.name.endswith(ending):
            raise UsageError(f"'{path.name}' must end in {ending}, since '{image.name}' is read.")
    if box is not None and _is_picture(image):
        raise UsageError("--box is for volumes; pictures are segmented without one.")
    model = model_of_adapter(adapter)
    images, affine = _read(model, image, also or [])
    prompt = None if box is None else _box(box, images[model.sequences[0]].shape)
    if prompt is None and model.head is None:
        raise UsageError("This adapter has no prompt head and cannot search; give --box.")
    if prompt is not None and not model.config.head_hints:
        raise UsageError(
            "This adapter's head takes no box (model.head_hints was off when it was trained)."
        )
    case = OpenCase.from_images(model, images)
    if model.labels:
        each = predict_labels(model, case)
    elif prompt is None:
        each = {"tumour": predict_automatic(model, case)}
    else:
        each = {"tumour": predict_from_slice(model, case, z=prompt[0], box=prompt[1])}
    _write(out, together(each).mask, affine, brightest=1 if model.labels else 255)
    for label, found in each.items():
        if probability is not None:
            path = probability if len(each) == 1 else _beside(probability, label, ending)
            _write(path, found.probability.astype("float32"), affine, brightest=255)
        typer.echo(
            f"{int(found.mask.sum())} voxels of {label} on {int(found.mask.any((0, 1)).sum())} of "
            f"{case.depth} slices; uncertainty {found.uncertainty:.2f} (0 to 1)."
        )
    typer.echo("A suggestion for a clinician to judge, not a finding.")


def _beside(path: Path, label: str, ending: str) -> Path:
    return path.with_name(f"{path.name.removesuffix(ending)}-{label}{ending}")


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(".png")


def _write(path: Path, values: "NDArray[Any]", affine: "Affine", *, brightest: int) -> None:
    """Write a volume as NIfTI, a picture (columns, rows, 1) as PNG with 1 as `brightest`."""
    from evenhand.cases.nifti import write_nifti_whole

    if not _is_picture(path):
        write_nifti_whole(path, values, affine)
        return
    import io

    import numpy as np
    from PIL import Image

    from evenhand.artifacts import write_atomically

    picture = io.BytesIO()
    grey = np.rint(brightest * values[:, :, 0].T.astype(np.float32)).astype(np.uint8)
    Image.fromarray(grey).save(picture, "PNG")
    write_atomically(path, picture.getvalue())


def _read(
    model: "AdaptedModel", image: Path, also: list[str]
) -> tuple[dict[str, "NDArray[np.float32]"], "Affine"]:
    """Read all sequences on one grid."""
    import numpy as np

    first, *others = model.sequences
    voxels, affine = _finite(image)
    images = {first: voxels}
    for one in also:
        name, equals, text = one.partition("=")
        if not equals or name not in others:
            raise UsageError(
                f"--also takes NAME=FILE with a NAME among {', '.join(others) or 'none'} "
                "(what this adapter looks at beside the first image)."
            )
        images[name], own = _finite(Path(text))
        if images[name].shape != voxels.shape or not np.allclose(
            own.ras_from_voxel, affine.ras_from_voxel, atol=1e-3
        ):
            raise DataError(
                f"'{Path(text).name}' lies on another grid than '{image.name}'; resample one onto "
                "the other first."
            )
    return images, affine


def _finite(path: Path) -> tuple["NDArray[np.float32]", "Affine"]:
    import numpy as np

    from evenhand.cases.nifti import read_nifti
    from evenhand.geometry import Affine
    from evenhand.ingest.png_table import read_picture

    if _is_picture(path):  # which way its pixels lie is as in a store
        return read_picture(path, f"'{path.name}'"), Affine(np.diag([-1.0, -1.0, 1.0, 1.0]))
    voxels, affine = read_nifti(path, name=path.name)
    if not np.isfinite(voxels).all():
        raise DataError(f"'{path.name}' holds values that are no numbers; repair the file.")
    return voxels.astype(np.float32), affine


def _box(text: str, shape: tuple[int, ...]) -> tuple[int, "Tensor"]:
    """Read K,X0,Y0,X1,Y1: x along the second axis of the volume, y along the first."""
    import torch

    wanted = (
        f"--box takes five numbers K,X0,Y0,X1,Y1 inside the image: K under {shape[2]}, columns up "
        f"to {shape[1]}, rows up to {shape[0]}, X0 under X1 and Y0 under Y1."
    )
    try:
        k, x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(wanted) from None
    inside = 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]
    if not (inside and k == int(k) and 0 <= k < shape[2]):
        raise UsageError(wanted)
    return int(k), torch.tensor([x0, y0, x1, y1])
