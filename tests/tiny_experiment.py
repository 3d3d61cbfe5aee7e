"""The smallest experiment that trains something, for tests of the pipeline."""

from rich.progress import Progress

from evenhand.config import ExperimentConfig
from evenhand.experiment.pipeline import run_experiment

PATIENTS = {"north": 3, "south": 3}


def config_of(**changes):
    """A small experiment with two arms and no federation; dotted keys change it."""
    raw = {
        "name": "tiny",
        "arms": ["box-zero-shot", "pooled"],
        "data": {"phantom": {"patients": PATIENTS, "shape": [32, 32, 4]}},
        "model": {
            "image_size": 128,
            "head": "small",
            "head_size": 64,
            "decoder_lora_rank": 0,
            "precision": "float32",
        },
        "training": {"epochs": 1, "tumour_slices": 1, "other_slices": 1},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            raw[section] = raw.get(section, {}) | {name: value}
        else:
            raw[key] = value
    return ExperimentConfig.model_validate(raw)


def run(config, out):
    """Run quietly."""
    return run_experiment(config, out, Progress(disable=True))
