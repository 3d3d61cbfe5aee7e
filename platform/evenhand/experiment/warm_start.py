"""A start for adapters that no patient has a part in: training on phantoms.

With few patients a head that starts at random has much to learn from little, and the noise of
private training drowns it; a head that has already seen synthetic heads has less to learn. They
are drawn with skull, scalp and eyes, and seen by scanners that differ more than training allows
for: what is taught on brains alone takes fat for tumour (docs/results/privacy.md).
"""

from typing import Any

from rich.progress import Progress

from evenhand.config import ExperimentConfig, PhantomConfig
from evenhand.experiment.layout import RunFolder
from evenhand.experiment.stages import stepper, train_whole
from evenhand.ingest.bids import ingest_bids
from evenhand.ingest.phantom import make_phantoms
from evenhand.model.adapted import AdaptedModel
from evenhand.training.data import load_patients
from evenhand.training.resume import KeptTraining

__all__ = ["train_on_phantoms"]

_SITES = 4
"""Phantom scanners that the synthetic patients are spread over."""

_SHAPE = (192, 192, 12)
"""Voxels of a phantom."""

_JITTER = 0.6
"""`training.intensity_jitter` of the start: real scanners are further away than each other's."""


def train_on_phantoms(
    run: RunFolder,
    config: ExperimentConfig,
    model: AdaptedModel,
    bar: Progress,
    kept: KeptTraining | None = None,
) -> dict[str, Any]:
    """Make synthetic patients without any planted bias and train the adapter on them.

    Patients and embeddings that are there already are not made again; `kept` as in `train`.
    """
    each = -(-config.warm_start.phantoms // _SITES)
    phantom = PhantomConfig(
        patients={f"phantom{number}": each for number in range(_SITES)},
        shape=_SHAPE,
        bias_attribute="none",
        heads=True,
    )
    # Another seed than the experiment's own phantoms: nobody is in both.
    seed = config.seed + 1
    # A folder of their own for each number and seed, so that either can be changed.
    folder = run.path / "warm-start" / f"heads-{each}-{seed}"
    source = make_phantoms(phantom, folder / "source", seed=seed)
    ingest_bids(source, folder / "hospitals", sequences=("FLAIR",), layout="{hospital}/store")
    homes = [RunFolder(folder).hospital(name) for name in sorted(phantom.patients)]
    patients = []
    for home in homes:
        store, cache = home.store(), home.cache(model, "FLAIR")
        cases = list(store)
        slices = sum(case.shape[2] for case in cache.missing(cases))
        with stepper(bar, f"warm start: {home.name} (slices)", slices) as task:
            cache.fill(store, cases, lambda done, task=task: bar.advance(task, done))  # type: ignore[misc]
        names = [case.patient.patient_id for case in cases]
        patients += load_patients(store, cache, names, model)
    changed = {"intensity_jitter": _JITTER}
    if config.warm_start.epochs is not None:
        changed["epochs"] = config.warm_start.epochs
    training = config.training.model_copy(update=changed)
    config = config.model_copy(update={"training": training})
    report = train_whole(model, patients, config, label="warm start", bar=bar, kept=kept)
    return {"seconds": report.seconds, "train_patients": 0, "phantoms": report.patients}
