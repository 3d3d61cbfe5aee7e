"""MONAI's own metrics, slow and whole: what ours are held to."""

import warnings

import numpy as np
import torch
from monai.metrics import (
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)


def monai_scores(predicted, reference, spacing, tolerance):
    """Dice, IoU, HD95 and NSD of two masks that both hold voxels."""
    # One foreground channel: (batch 1, channel 1, i, j, k); it is "background" to MONAI only in
    # being channel 0, hence include_background.
    p = torch.from_numpy(np.ascontiguousarray(predicted, dtype=np.float32))[None, None]
    r = torch.from_numpy(np.ascontiguousarray(reference, dtype=np.float32))[None, None]
    whole = {"include_background": True}
    where = whole | {"spacing": list(spacing)}
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes itself; nothing here could avoid it.
        warnings.filterwarnings(
            "ignore", message=".*always_return_as_numpy", category=FutureWarning
        )
        scores = (
            compute_dice(p, r, **whole),
            compute_iou(p, r, **whole),
            compute_hausdorff_distance(p, r, percentile=95, **where),
            compute_surface_dice(p, r, class_thresholds=[tolerance], **where),
        )
    return tuple(float(score.item()) for score in scores)
