"""Where everything of a run lies on disk: the one owner of a run folder's layout.

OUT/config.json                     the experiment, resolved and frozen
OUT/run.json                        machine, versions, seconds by stage
OUT/source/                         phantoms, when the experiment makes its own hospitals
OUT/hospitals/HOSPITAL/store/       the hospital's case store, or a link to it (data.stores)
OUT/hospitals/HOSPITAL/embeddings/  its cache of frozen activations
OUT/hospitals/HOSPITAL/moments/     of its optimiser, and what else stays, from round to round
OUT/hospitals/HOSPITAL/receipts.jsonl  of charges to its privacy ledger, which lies elsewhere
OUT/hospitals/HOSPITAL/site/        key and ledger of a phantom hospital
OUT/splits.json
OUT/arms/ARM/                       adapter, round records, masks, probabilities
OUT/predictions.csv
OUT/report/index.html
OUT/attack/attack.json              what `evenhand attack` found, if it was asked
OUT/review/review.sqlite

torch is imported only by what needs it: the review page reads a run without it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from evenhand.cases.splits import Split
from evenhand.cases.store import CaseStore
from evenhand.config import ExperimentConfig
from evenhand.errors import AdapterError, UsageError

if TYPE_CHECKING:
    from evenhand.model.adapted import AdaptedModel
    from evenhand.model.embeddings import EmbeddingCache
    from evenhand.privacy.cohort import Cohort
    from evenhand.privacy.ledger import Ledger
    from evenhand.privacy.secure_sum import Together
    from evenhand.privacy.site import Site

__all__ = [
    "ArmFolder",
    "CasesDigest",
    "HospitalHome",
    "RunFolder",
    "build_model",
    "model_of_adapter",
]

MASK_SUFFIX = ".nii.gz"
"""Of a proposed mask, after the case id."""


@dataclass(frozen=True)
class HospitalHome:
    """What one hospital has: all of it stays there.

    Attributes:
        path: its folder.
        synthetic: its patients are phantoms that the run made for itself.
    """

    path: Path
    synthetic: bool = False

    @property
    def name(self) -> str:
        """The hospital's name, which is its folder's."""
        return self.path.name

    def store(self) -> CaseStore:
        """Open the hospital's case store."""
        return CaseStore(self.path / "store")

    def cache(self, model: "AdaptedModel", sequence: str) -> "EmbeddingCache":
        """The embedding cache that fits a model."""
        from evenhand.model.embeddings import EmbeddingCache

        key = self.store().key
        return EmbeddingCache.of_model(self.path / "embeddings", model, sequence, key)

    def site(self) -> "Site":
        """The hospital's own place, with its key, ledger and policy.

        It lies outside the run, so that all runs over the same patients share one ledger.
        Phantoms that a run made for itself are no persons: theirs lies in the run.
        """
        from evenhand.privacy.site import Site

        if self.synthetic:
            return Site(self.path / "site", self.name, synthetic=True)
        return Site.of(self.name)

    def ledger(self) -> "Ledger":
        """Open the hospital's privacy ledger."""
        return self.site().ledger()

    def cohort(self, patient_ids: Iterable[str], sequence: str) -> "Cohort":
        """Patients as the ledger knows them: by id, and by their images of a sequence."""
        from evenhand.privacy.cohort import Cohort

        wanted = set(patient_ids)
        images: dict[str, list[str]] = {}
        for case in self.store():
            if case.patient.patient_id in wanted:
                images.setdefault(case.patient.patient_id, []).append(case.sequences[sequence])
        return Cohort.of(self.site().key(), images)

    def moments_path(self, arm: str, number: int) -> Path:
        """What a federated arm left here after round `number`, and never sends.

        The optimiser's memory, the hospital's own part of the adapter, its correction of drift.
        """
        return self.path / "moments" / f"{arm}-{number}.safetensors"

    def rounds_kept(self, arm: str) -> list[int]:
        """Rounds of an arm of which something was kept here, rising."""
        found = (self.path / "moments").glob(f"{arm}-*.safetensors")
        numbers = (path.stem.removeprefix(f"{arm}-") for path in found)
        return sorted(int(one) for one in numbers if one.isdecimal())

    def forget_arm(self, arm: str) -> None:
        """Delete all that was kept of an arm: it begins anew."""
        for number in self.rounds_kept(arm):
            self.moments_path(arm, number).unlink(missing_ok=True)

    @property
    def receipts_path(self) -> Path:
        """Receipts of this run's charges: they prove later that the ledger had them."""
        return self.path / "receipts.jsonl"

    @property
    def log_path(self) -> Path:
        """The hospital's own log; unlike what leaves, it may name files."""
        return self.path / "node.log"


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The resolved experiment."""
        return self.path / "config.json"

    @property
    def split_path(self) -> Path:
        """Who trains and who tests."""
        return self.path / "splits.json"

    @property
    def predictions_path(self) -> Path:
        """The prediction table of all arms."""
        return self.path / "predictions.csv"

    @property
    def lock_path(self) -> Path:
        """Locked while a command works in this folder."""
        return self.path / ".lock"

    @property
    def phantom_path(self) -> Path:
        """The phantoms of an experiment that makes its own hospitals."""
        return self.path / "source"

    @property
    def report_folder(self) -> Path:
        """The audit's report."""
        return self.path / "report"

    @property
    def attack_path(self) -> Path:
        """What attacks on the privacy promise have found."""
        return self.path / "attack" / "attack.json"

    @property
    def record_path(self) -> Path:
        """Machine, versions, seconds by stage."""
        return self.path / "run.json"

    def config(self) -> ExperimentConfig:
        """Read the experiment that this folder belongs to.

        Raises:
            UsageError: the folder is no run, or of another version.
        """
        try:
            return ExperimentConfig.model_validate_json(self.config_path.read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"'{self.path}' is not a run (no config.json). "
                "Make one with `evenhand run CONFIG.toml --out DIR`."
            ) from None
        except ValidationError:
            raise UsageError(
                f"'{self.config_path}' is not a config of this version of Evenhand; "
                "run again into a new folder."
            ) from None

    def split(self) -> Split:
        """Read who trains and who tests."""
        return Split.from_json(self.split_path.read_text("utf-8"))

    def together(self) -> "Together":
        """Who shares noise in this run; one process simulates all, and adds up in the clear."""
        from evenhand.privacy.secure_sum import Together

        train = self.split().train
        return Together(sum(map(len, train.values())), len(train), carrier="trusted-sum")

    def digest(self) -> "CasesDigest":
        """What the arms' results depend on, of the cases and the split."""
        voxels, patients = [], []
        for home in self.hospitals():
            for case in home.store():
                one = case.patient
                key = (case.case_id, one.patient_id, one.hospital)
                voxels.append((*key, sorted(case.sequences.items()), case.mask_sha256))
                place = case.affine.ras_from_voxel.tolist()
                known = (one.sex, one.age_years, one.race, one.ethnicity, place)
                patients.append((key, *known, *sorted(one.extra.items())))
        return CasesDigest(
            voxels=_sha256((sorted(voxels), self.split().to_json())),
            patients=_sha256(sorted(patients, key=repr)),
        )

    def further_attributes(self, config: ExperimentConfig) -> tuple[str, ...]:
        """What the audit is to compare beyond the usual attributes, and some patient has."""
        there = {
            name
            for home in self.hospitals()
            for case in home.store()
            for name in case.patient.extra
        }
        return tuple(name for name in config.audit.attributes if name in there)

    @property
    def review_path(self) -> Path:
        """The SQLite file with the decisions."""
        return self.path / "review" / "review.sqlite"

    def hospital(self, name: str) -> HospitalHome:
        """The home of one hospital."""
        synthetic = self.config_path.exists() and self.config().data.phantom is not None
        return HospitalHome(self.path / "hospitals" / name, synthetic=synthetic)

    def hospitals(self) -> list[HospitalHome]:
        """All hospitals of the run, by name."""
        return [self.hospital(name) for name in self.split().hospitals]

    def arm(self, name: str) -> "ArmFolder":
        """The folder of one arm."""
        return ArmFolder(self.path / "arms" / name)

    def arms(self) -> list["ArmFolder"]:
        """Folders of all arms that have begun, by name."""
        return [ArmFolder(path) for path in sorted((self.path / "arms").glob("*/"))]


@dataclass(frozen=True)
class CasesDigest:
    """Hashes of what was ingested: equal where results can be kept.

    Attributes:
        voxels: of images, masks and the split, which training depends on.
        patients: of attributes and geometry, which only figures depend on.
    """

    voxels: str
    patients: str


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class ArmFolder:
    """What one arm of an experiment leaves behind."""

    path: Path

    @property
    def fingerprint_path(self) -> Path:
        """Of what the arm's training depends on; see `evenhand.experiment.arms`."""
        return self.path / "fingerprint"

    @property
    def adapter_path(self) -> Path:
        """The trained adapter; written last, so its presence means that training is done."""
        return self.path / "adapter.safetensors"

    @property
    def start_path(self) -> Path:
        """The adapter that training starts from, where it does not start at random."""
        return self.path / "start.safetensors"

    @property
    def checkpoint_path(self) -> Path:
        """The aggregated adapter after the last finished round."""
        return self.path / "checkpoint.safetensors"

    @property
    def rounds_path(self) -> Path:
        """One record a round, JSON lines."""
        return self.path / "rounds.jsonl"

    @property
    def log_path(self) -> Path:
        """What the federated processes printed."""
        return self.path / "flower.log"

    @property
    def record_path(self) -> Path:
        """Seconds, bytes and epsilon of the arm, for the report."""
        return self.path / "arm.json"

    def mask_path(self, case_id: str) -> Path:
        """Proposed mask of a test case."""
        return self.path / "masks" / f"{case_id}{MASK_SUFFIX}"

    def probability_path(self, case_id: str) -> Path:
        """Probability of tumour behind a proposed mask: uint8, 255 is certain."""
        return self.path / "probabilities" / f"{case_id}{MASK_SUFFIX}"

    def mask_case_ids(self) -> list[str]:
        """Cases that have a proposed mask, sorted."""
        masks = (self.path / "masks").glob(f"*{MASK_SUFFIX}")
        return sorted(path.name.removesuffix(MASK_SUFFIX) for path in masks)

    def read_rounds(self) -> list[dict[str, object]]:
        """Records of all rounds, failed ones too; a last line that was cut off is left out."""
        if not self.rounds_path.exists():
            return []
        lines = self.rounds_path.read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def append_round(self, record: Mapping[str, object]) -> None:
        """Add the record of a round; a line that was cut off before makes room for it."""
        with self.rounds_path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(dict(record)).encode() + b"\n")


def model_of_adapter(path: Path) -> "AdaptedModel":
    """The backbone that an adapter belongs to, with the adapter on it.

    Raises:
        AdapterError: the file is no adapter, of other weights than are published, or not whole.
    """
    from evenhand.model.adapted import AdaptedModel
    from evenhand.model.adapter_files import load_onto, read_adapter
    from evenhand.model.backbones import load_backbone
    from evenhand.model.device import chosen_device

    adapter = read_adapter(path)
    if adapter.training.get("local_parts"):
        raise AdapterError(
            f"Parts of '{path}' stayed at the hospitals that trained it (federation.local_parts), "
            "so it is not whole. At a hospital, join it with its own: evenhand federation adapter"
        )
    backbone = load_backbone(adapter.backbone, adapter.model.image_size)
    sequences = adapter.sequences or ("image",)  # a name is asked for, where an old file has none
    model = AdaptedModel(
        backbone, adapter.model, seed=0, sequences=sequences, labels=adapter.labels
    )
    load_onto(path, model)
    # Not where it was trained: that may have been another machine.
    return model.to(chosen_device("auto"))


def build_model(config: ExperimentConfig) -> "AdaptedModel":
    """The backbone with a fresh adapter, the same everywhere for one config."""
    from evenhand.model.adapted import AdaptedModel
    from evenhand.model.backbones import load_backbone
    from evenhand.model.device import chosen_device

    backbone = load_backbone(config.model.backbone, config.model.image_size)
    data = config.data
    model = AdaptedModel(
        backbone, config.model, seed=config.seed, sequences=data.sequences, labels=data.labels
    )
    return model.to(chosen_device(config.model.device))
