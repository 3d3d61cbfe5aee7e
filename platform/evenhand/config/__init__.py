"""What an experiment can be told: sections that are frozen, strict about keys, and checked.

`evenhand.config_files` reads them from TOML.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evenhand.config.audit import AuditConfig, Threshold, ThresholdConfig
from evenhand.config.section import Count, Fraction, Positive, Section

__all__ = [
    "PRIVATE_ARM",
    "ArmName",
    "AuditConfig",
    "Count",
    "DataConfig",
    "ExperimentConfig",
    "FederationConfig",
    "Fraction",
    "ModelConfig",
    "PhantomConfig",
    "Positive",
    "Precision",
    "PrivacyConfig",
    "Section",
    "Threshold",
    "ThresholdConfig",
    "TrainingConfig",
    "WarmStartConfig",
]

ArmName = Literal["box-zero-shot", "local", "pooled", "federated", "federated-private"]
"""What can be compared in one experiment."""

Precision = Literal["float32", "float16"]
"""Of numbers on their way."""

PRIVATE_ARM: Literal["federated-private"] = "federated-private"
"""The arm in which nothing leaves a hospital that its ledger has not paid for."""


class PhantomConfig(Section):
    """Synthetic hospitals to make instead of reading real ones."""

    patients: dict[str, Count] = Field(
        default_factory=lambda: dict.fromkeys(("north", "east", "south", "west"), 10)
    )
    """Patients of each hospital, by hospital name."""
    shape: tuple[Count, Count, Count] = (96, 96, 12)
    """Voxels of a volume (i, j, k)."""
    bias_attribute: Literal["sex", "none"] = "sex"
    """Whose tumours are made harder to see."""
    bias_value: str = "F"
    """The group of `bias_attribute` that the bias is planted in."""
    bias_contrast: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Tumour contrast of that group, as a fraction of everybody else's."""
    scanner_shift: Annotated[float, Field(ge=0)] = 1.0
    """How far scanners differ (gain, bias field, noise); 0: all the same."""
    heads: bool = False
    """Whether skull, scalp and eyes are drawn, too, and tumours as unlike as patients' are."""


class DataConfig(Section):
    """Where cases come from and how patients are split."""

    source: Path | None = None
    """A BIDS tree; exactly one of `source`, `stores` and `phantom` is given."""
    stores: dict[str, Path] = Field(default_factory=dict)
    """Stores that `evenhand ingest` made, by hospital; all of them take part."""
    phantom: PhantomConfig | None = None
    hospitals: tuple[str, ...] = ()
    """Hospitals that take part; empty: all that are found."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Hospitals that do not take part, each with the reason, for the report."""
    sequences: Annotated[tuple[str, ...], Field(min_length=1)] = ("FLAIR",)
    """Image sequences by BIDS suffix; the first one feeds the backbone, all of them the head."""
    may_lack: tuple[str, ...] = ()
    """Those of `sequences` that a case may lack; the head then sees nothing there."""
    labels: tuple[str, ...] = ()
    """Names of several labels in the masks of `stores`, in their order; empty: one, the tumour."""
    units: Literal["mm", "voxel"] = "mm"
    """`voxel` where the source has no true spacing: distances are then in voxels."""
    test_fraction: Fraction = 1 / 3
    corrections: Path | None = None
    """What `evenhand review feedback` wrote: reviewed masks that take the place of references in
    the run's own stores; not with `stores`, which are the hospitals'."""

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if sum((self.source is not None, bool(self.stores), self.phantom is not None)) != 1:
            raise ValueError(
                "give exactly one of data.source (a BIDS tree), data.stores (stores by hospital) "
                "and [data.phantom]"
            )
        if self.stores and (self.hospitals or self.left_out):
            raise ValueError("data.stores names the hospitals; leave hospitals and left_out out")
        if self.stores and self.corrections is not None:
            raise ValueError(
                "data.corrections would overwrite the reference masks in the hospitals' own stores "
                "(data.stores). Leave it out: `evenhand review feedback RUN --out DIR --store "
                "STORE` puts reviewed masks into a store that you name, for good; put them into a "
                "copy if the old ones are to stay"
            )
        return self

    @model_validator(mode="after")
    def _several(self) -> "DataConfig":
        if self.labels and not self.stores:
            raise ValueError(
                "labels needs data.stores, filled by `evenhand ingest` with --label: other sources "
                "hold one label"
            )
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels takes two names or more, each once; one label needs no name")
        return self

    @model_validator(mode="after")
    def _lackable(self) -> "DataConfig":
        if strange := sorted({*self.may_lack} - {*self.sequences[1:]}):
            raise ValueError(
                f"may_lack names {', '.join(strange)}, which is not among the sequences after the "
                "first; the first feeds the backbone, and every case needs it"
            )
        return self

    @model_validator(mode="after")
    def _in_or_out(self) -> "DataConfig":
        both = sorted({*self.hospitals} & {*self.left_out})
        if both:
            raise ValueError(f"{', '.join(both)} is both in hospitals and in left_out; choose one")
        return self


class ModelConfig(Section):
    """The frozen backbone and the adapter on it."""

    backbone: str = "mobile-sam"
    image_size: Annotated[int, Field(ge=128, le=1024, multiple_of=64)] = 512
    """Side to which slices are resized for the backbone, pixels."""
    head: Literal["none", "small", "base"] = "base"
    """Size of the prompt head, which works without a prompt."""
    head_size: Annotated[int, Field(ge=64, le=512, multiple_of=16)] = 256
    """Side to which slices are resized for the prompt head, pixels."""
    head_hints: bool = False
    """Whether the head also takes a box, or the mask of the slice before; it then answers boxes
    instead of the mask decoder, and carries a mask through a volume."""
    decoder_lora_rank: Annotated[int, Field(ge=0, le=64)] = 4
    """Rank of LoRA in the mask decoder's attention; 0: none."""
    encoder_lora_rank: Annotated[int, Field(ge=0, le=64)] = 0
    encoder_lora_blocks: Annotated[int, Field(ge=0, le=32)] = 0
    """How many of the last encoder blocks are adapted; what is before them is cached."""
    smallest_component: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Without a prompt, connected parts under this fraction of the largest are dropped."""
    temperature: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    """By it logits are divided before they become probabilities: over 1 makes them less sure, and
    masks stay the same. `training.calibration_share` fits it instead."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a CUDA device where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the frozen part; auto: bfloat16 where the device has it."""
    training_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training; auto: as the frozen part. float32 is slower, and trains the same
    adapter on any number of threads."""


class TrainingConfig(Section):
    """How the adapter is trained when no privacy is asked for."""

    epochs: Count = 8
    """Passes over the training patients, for local and pooled arms."""
    patients_per_step: Count = 4
    tumour_slices: Count = 6
    """Slices with tumour drawn from a patient in a step, at most."""
    other_slices: Annotated[int, Field(ge=0)] = 6
    box_slices: Annotated[int, Field(ge=0)] = 2
    """Slices a patient and step on which the decoder learns from a jittered box."""
    box_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of draws that train on boxes at all: the decoder costs more than the head."""
    box_hints: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of slices on which the head is told a box (model.head_hints)."""
    mask_hints: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of slices on which the head is told a neighbour's mask (model.head_hints)."""
    box_jitter: Annotated[int, Field(ge=0)] = 5
    """Largest shift of each box side, in pixels of the original slice."""
    intensity_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Largest relative change of a drawn slice's gain and gamma."""
    sequence_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of slices from which a sequence after the first is taken, since cases may lack it."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 20.0
    """Largest turn of a drawn slice."""
    scale_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Largest relative change of a drawn slice's size."""
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    calibration_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of training patients of a local or pooled arm on whom the temperature is fitted, after
    a training of its own without them, which doubles the time; 0: `model.temperature` is used."""
    patient_weights: Path | None = None
    """How often each patient is drawn (`evenhand mitigate weights`); not for the private arm."""


class FederationConfig(Section):
    """How hospitals train together."""

    rounds: Count = 6
    local_epochs: Count = 1
    """Passes over its own patients that a hospital makes in a round."""
    patients_per_step: Count | None = None
    """Patients whose slices make a step at a hospital; none: as in training. Fewer make as many
    steps of a hospital's few patients as pooled training makes of all."""
    minimum_hospitals: Count = 2
    round_timeout_s: Positive = 1800
    client_cpus: Count = 1
    """Processor cores that one simulated hospital may use."""
    strategy: Literal[
        "fedavg",
        "fedprox",
        "fedadam",
        "fedyogi",
        "scaffold",
        "trimmed-mean",
        "krum",
        "qfedavg",
        "tilted",
    ] = "fedavg"
    """How updates are put together."""
    proximal: Positive = 0.01
    """fedprox: how strongly hospitals are held to the common adapter while they train."""
    server_rate: Positive = 0.01
    """fedadam, fedyogi: learning rate of the coordinator's optimiser."""
    server_tau: Positive = 1e-3
    """fedadam, fedyogi: added to the root of the second moment; changes far below it are followed
    slowly, as those of private steps are."""
    poisoned: Annotated[int, Field(ge=0)] = 1
    """trimmed-mean, krum: hospitals whose updates may be anything; fewer than half."""
    fairness: Positive = 1.0
    """qfedavg, tilted: how much more a hospital with a larger loss weighs."""
    precision: Precision = "float16"
    """Of numbers on their way between hospitals and coordinator; all train and keep float32.
    float16 moves half the bytes. A noise that hospitals share (privacy.trust = "secure-sum")
    and strategy scaffold travel in float32, whatever stands here."""
    secure_sum: bool = False
    """Whether the coordinator sees only the sum of updates; between real hospitals alone."""
    local_parts: tuple[str, ...] = ()
    """Patterns of adapter tensors that never leave their hospital, which predicts with its own:
    `head.*.1.*` (norms), `head.leave.*` (last layer); not for the private arm."""

    @model_validator(mode="after")
    def _summable(self) -> "FederationConfig":
        if self.secure_sum and self.strategy in ("trimmed-mean", "krum", "qfedavg", "tilted"):
            raise ValueError(
                f"strategy {self.strategy} looks at single updates, which secure_sum hides; "
                "choose one of the two"
            )
        return self


class WarmStartConfig(Section):
    """A start for adapters that no patient has a part in: training on synthetic heads."""

    phantoms: Annotated[int, Field(ge=0)] = 0
    """Synthetic patients on which the adapter is trained first; they cost no privacy. 0: adapters
    start at random."""
    epochs: Count | None = None
    """Passes over them; None: as many as `training.epochs`."""
    arms: tuple[Literal["local", "pooled", "federated", "federated-private"], ...] = (
        "local",
        "pooled",
        "federated",
        "federated-private",
    )
    """Which arms start there."""

    def starts(self, kind: str) -> bool:
        """Whether arms of this kind start from phantoms."""
        return self.phantoms > 0 and kind in self.arms


class PrivacyConfig(Section):
    """Patient-level differential privacy."""

    trust: Literal["local", "secure-sum"] = "local"
    """`local`: each hospital noises its own update. `secure-sum`: each adds a share of the noise,
    and only the sum over all hospitals may be seen."""
    tolerated: Annotated[int, Field(ge=0)] = 1
    """secure-sum: hospitals that may drop out of a round or collude with one that looks at the sum,
    without harm to the promise; at most two fewer than there are."""
    epsilon: Positive = 8.0
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """None: 1 / (10 x its own training patients). secure-sum wants one for all hospitals: shares
    of one noise must be sized by one delta."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability with which each patient takes part in a step."""
    clip_norm: Positive = 1.0
    rounds: Count = 10
    steps_per_round: Count = 4
    slices_per_patient: Count = 8
    """Contribution bound: slices of one patient that a step may use."""
    learning_rate: Positive = 1e-3
    trainable: tuple[str, ...] = ("*",)
    """Patterns of adapter tensors that the private arm trains; fewer need less noise."""
    patient_shares: Path | None = None
    """Table of `evenhand mitigate weights --private`: how much of each patient's clipped gradient
    counts. Shares must follow from a patient's own group and noised or public figures only."""

    @model_validator(mode="after")
    def _one_sum(self) -> "PrivacyConfig":
        if self.trust == "secure-sum" and self.steps_per_round != 1:
            raise ValueError(
                "trust = 'secure-sum' wants steps_per_round = 1, since only the sum of one step "
                "is hidden by everybody's noise; take more rounds instead"
            )
        if self.trust == "secure-sum" and self.delta is None:
            raise ValueError(
                "trust = 'secure-sum' wants privacy.delta, well below 1 / all patients: "
                "by different deltas hospitals would size the noise that they share differently"
            )
        return self


class ExperimentConfig(Section):
    """Everything that `evenhand run` needs to know."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    arms: tuple[ArmName, ...] = (
        "box-zero-shot",
        "local",
        "pooled",
        "federated",
        "federated-private",
    )
    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    audit: AuditConfig = AuditConfig()

    @model_validator(mode="before")
    @classmethod
    def _warm_start_of_before(cls, raw: object) -> object:
        """Read runs of the time when only the private arm could start from phantoms."""
        if not isinstance(raw, dict) or not isinstance(raw.get("privacy"), dict):
            return raw
        privacy = dict(raw["privacy"])
        phantoms, epochs = (privacy.pop(f"warm_start_{k}", None) for k in ("phantoms", "epochs"))
        if phantoms and "warm_start" not in raw:
            start = {"phantoms": phantoms, "epochs": epochs, "arms": [PRIVATE_ARM]}
            return {**raw, "privacy": privacy, "warm_start": start}
        return {**raw, "privacy": privacy}

    @model_validator(mode="after")
    def _whole_start(self) -> "ExperimentConfig":
        if self.federation.local_parts and self.warm_start.starts("federated"):
            raise ValueError(
                "federation.local_parts start at random at each hospital, which a start from "
                "phantoms would not reach; leave federated out of warm_start.arms"
            )
        return self

    @model_validator(mode="after")
    def _phantoms_fit(self) -> "ExperimentConfig":
        if self.warm_start.phantoms and (self.data.labels or self.data.sequences[0] != "FLAIR"):
            raise ValueError(
                "warm_start.phantoms are heads on FLAIR with one label; set it to 0 for other "
                "images and for several data.labels"
            )
        return self

    @model_validator(mode="after")
    def _arms_once(self) -> "ExperimentConfig":
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError("arms must name at least one arm, and none twice")
        if self.training.patient_weights is not None and PRIVATE_ARM in self.arms:
            raise ValueError(
                "training.patient_weights draws some patients more often, which the privacy "
                "accounting does not cover; leave the arm federated-private out, or give it "
                "privacy.patient_shares"
            )
        if self.federation.local_parts and PRIVATE_ARM in self.arms:
            raise ValueError(
                "federation.local_parts trains parts that stay, which the privacy accounting does "
                f"not cover; leave the arm {PRIVATE_ARM} out"
            )
        return self

    @model_validator(mode="after")
    def _head_to_calibrate(self) -> "ExperimentConfig":
        if self.training.calibration_share and self.model.head == "none":
            raise ValueError(
                "training.calibration_share fits a temperature to what the prompt head finds, and "
                "model.head is 'none'; set model.temperature instead"
            )
        return self

    @model_validator(mode="after")
    def _labels_by_the_head(self) -> "ExperimentConfig":
        model = self.model
        by_box = model.head == "none" or model.head_hints or model.decoder_lora_rank
        if self.data.labels and (by_box or "box-zero-shot" in self.arms):
            raise ValueError(
                "several data.labels are found by the prompt head alone, since a box does not say "
                "which label it means: set model.decoder_lora_rank to 0, leave model.head_hints "
                "off, and leave box-zero-shot out of arms"
            )
        return self

    @model_validator(mode="after")
    def _sums_are_plain(self) -> "ExperimentConfig":
        strategy = self.federation.strategy
        if PRIVATE_ARM in self.arms and strategy in ("qfedavg", "tilted"):
            raise ValueError(
                f"strategy {strategy} weighs hospitals by their losses, which the arm "
                f"{PRIVATE_ARM} never tells; take another strategy, or leave the arm out"
            )
        # These look at the mean alone: what they do with it costs no privacy.
        if self.privacy.trust == "secure-sum" and strategy not in ("fedavg", "fedadam", "fedyogi"):
            raise ValueError(
                f"privacy.trust = 'secure-sum' does not work with the strategy '{strategy}', which "
                "asks for more than a mean; take fedavg, fedadam or fedyogi"
            )
        return self

    def fingerprint(self, *sections: str) -> str:
        """Hash of the named sections (all when none is named), 16 hex digits.

        Two configs with equal fingerprints ask for the same result.
        """
        content = self.model_dump(mode="json", include=set(sections) if sections else None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
