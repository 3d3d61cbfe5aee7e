"""What phantoms teach a model before patients do, computed once for all rows of a benchmark."""

from pathlib import Path

from evenhand.config import ExperimentConfig
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.experiment.warm_start import train_on_phantoms
from evenhand.model.adapted import AdaptedModel
from evenhand.model.adapter_files import load_onto, save_adapter
from evenhand.progress import progress_bar

__all__ = ["begin_with_phantoms"]


def begin_with_phantoms(model: AdaptedModel, config: ExperimentConfig, out: Path) -> None:
    """Give a model its start, which stays in `out`: one file for each kind of model."""
    path = out / f"start-{config.fingerprint('model', 'training', 'warm_start')}.safetensors"
    if not path.exists():
        taught, work = build_model(config), RunFolder(out / "start")
        work.path.mkdir(exist_ok=True)
        with progress_bar() as bar:
            trained = train_on_phantoms(work, config, taught, bar)
        save_adapter(path, taught, config_fingerprint=config.fingerprint(), training=trained)
    load_onto(path, model)
