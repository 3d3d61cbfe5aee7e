"""Take a head volume in with its face removed, and measure what is left of the face.

Usage: python benchmarks/deface.py HEAD.nii.gz [FOLDER]

HEAD is a T1w with a face, such as the one in the source archive of pydeface. A
ball beside the middle stands for a tumour. `evenhand ingest` must refuse it as it is, and
take it in with `--deface`, which needs the optional part `deface`. Nothing of
the picture is kept or shown.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from evenhand.cases.nifti import read_nifti, write_nifti
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError
from evenhand.ingest.faces.deface import face_left, find_brain


def main() -> None:
    """Run the benchmark and print a table."""
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    voxels, affine = read_nifti(Path(sys.argv[1]), name="the head")
    image = np.asarray(voxels, np.float32)
    tumour = np.zeros(image.shape, np.uint8)
    middle = [size // 2 for size in image.shape]
    tumour[
        middle[0] + 12 : middle[0] + 24, middle[1] : middle[1] + 12, middle[2] : middle[2] + 12
    ] = 1
    for name in ("anat", "derivatives/m/sub-1/anat"):
        (folder / "tree" / ("sub-1/anat" if name == "anat" else name)).mkdir(parents=True)
    write_nifti(folder / "tree/sub-1/anat/sub-1_T1w.nii.gz", image, affine)
    write_nifti(folder / "tree/derivatives/m/sub-1/anat/sub-1_t_mask.nii.gz", tumour, affine)
    (folder / "tree/participants.tsv").write_text("participant_id\tsite\nsub-1\tnorth\n", "utf-8")
    words = ["ingest", str(folder / "tree"), "--into", str(folder / "stores")]
    try:
        app(words, standalone_mode=False)
        sys.exit("The head was taken in as it is; it should have been refused.")
    except DataError as error:
        print(f"As it is: refused ({str(error)[:60]}...)\n")
    began = time.perf_counter()
    app([*words, "--deface"], standalone_mode=False)
    seconds = time.perf_counter() - began
    store = CaseStore(folder / "stores" / "north")
    (case,) = store
    stored = store.volumes(case)
    brain = find_brain({"T1w": image}, affine)
    mirrored = brain[::-1]
    rows = {
        "seconds": f"{seconds:.1f}",
        **(store.evidence(case) or {})["faces"],
        "brain voxels changed (compared again)": int((stored.images["T1w"] != image)[brain].sum()),
        "tumour mask changed": int((stored.mask != tumour).sum())
        if stored.mask is not None
        else -1,
        "face surface left (compared again)": face_left(image, stored.images["T1w"], affine),
        "face surface left by doing nothing": face_left(image, image, affine),
        "mean intensity within the brain mask": f"{image[brain].mean():.1f}",
        "the same within its mirror image": f"{image[mirrored].mean():.1f}",
    }
    print(
        "\n".join(
            ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
        )
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
