"""The run's model, asked by a reader for one slice: loaded and made ready in the background.

A prompt is answered from the embedding cache. What is missing there is computed
by one thread, the case that was asked for last first; nothing is downloaded, for
a hospital's network may be closed. torch is imported by that thread alone, so
that opening a case does not wait for it.
"""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from evenhand.cases.records import Case
from evenhand.config import ExperimentConfig
from evenhand.errors import EvenhandError, ResourceError
from evenhand.experiment.layout import RunFolder, build_model
from evenhand.model.weights import path_of
from evenhand_ui.runs import ReviewRun

if TYPE_CHECKING:
    from evenhand.model.adapted import AdaptedModel
    from evenhand.model.embeddings import EmbeddingCache
    from evenhand.predict import OpenCase, SlicePrompt

__all__ = ["Assistant", "Readiness"]

_WITHOUT_ADAPTER = "box-zero-shot"
_KEPT_OPEN = 4
"""Cases whose slices stay in memory; 60 MB for a large one."""


@dataclass(frozen=True)
class Readiness:
    """Whether the model can be asked about a case; `why` is a sentence where it cannot (yet)."""

    state: Literal["absent", "preparing", "ready"]
    why: str = ""


class Assistant:
    """The model of one run's arm.

    Args:
        run: the run under review.
    """

    def __init__(self, run: ReviewRun) -> None:
        self._folder = RunFolder(run.folder)
        self._run = run
        self._news = threading.Condition()
        self._asking = threading.Lock()
        self._wanted: dict[str, Case] = {}
        self._ready: set[str] = set()
        self._faults: dict[str, str] = {}
        self._opened: dict[str, OpenCase] = {}
        self._model: AdaptedModel | None = None
        self._worker: threading.Thread | None = None
        self._config, self._absent = self._look()

    def readiness(self, case: Case) -> Readiness:
        """Tell whether the model can be asked about a case, and begin what is missing."""
        if self._config is None or self._absent:
            return Readiness("absent", self._absent)
        if self._config.data.sequences[0] not in case.sequences:
            return Readiness("absent", "The case lacks the sequence that the model reads.")
        with self._news:
            if case.case_id in self._ready:
                return Readiness("ready")
            if case.case_id in self._faults:
                return Readiness("absent", self._faults[case.case_id])
            self._wanted.pop(case.case_id, None)
            self._wanted[case.case_id] = case  # last, so that it is taken first
            if self._worker is None:
                # A daemon: a server that ends does not wait for a case of minutes. What is
                # half computed is not written.
                self._worker = threading.Thread(target=self._prepare_all, daemon=True)
                self._worker.start()
            self._news.notify_all()
        return Readiness("preparing", "The model is reading this case; that takes a while once.")

    def demand(self, case: Case) -> "AdaptedModel":
        """Return the model that is ready for a case.

        Raises:
            ResourceError: it is not (yet); says why.
        """
        ready, model = self.readiness(case), self._model
        if ready.state != "ready" or model is None:
            raise ResourceError(ready.why)
        return model

    def answer(self, case: Case, prompt: "SlicePrompt") -> NDArray[np.uint8]:
        """Segment a slice of a case by a prompt: (i, j) of 0 and 1.

        Raises:
            ResourceError: the model is not ready for this case.
            DataError: the prompt does not fit the case.
        """
        from evenhand.predict import predict_prompt

        model = self.demand(case)
        with self._asking:
            return predict_prompt(model, self._open(case, model), prompt, by_head=self._by_head)

    @property
    def _by_head(self) -> bool:
        """Whether the prompt head was trained to answer boxes."""
        return self._known().model.head_hints and self._run.arm != _WITHOUT_ADAPTER

    def _open(self, case: Case, model: "AdaptedModel") -> "OpenCase":
        """The case as the model sees it; the last few are kept, for the next prompt."""
        from evenhand.predict import OpenCase

        found = self._opened.pop(case.case_id, None)
        if found is None:
            store = self._run.stores[case.patient.hospital]
            found = OpenCase.of(model, store, self._cache(case, model), case)
        self._opened[case.case_id] = found
        while len(self._opened) > _KEPT_OPEN:
            self._opened.pop(next(iter(self._opened)))
        return found

    def _look(self) -> tuple[ExperimentConfig | None, str]:
        """The run's experiment, and why it cannot be asked ("" where it can)."""
        try:
            config = self._folder.config()
            weights = path_of(config.model.backbone)
        except EvenhandError:
            return None, "This folder holds masks without the model that made them."
        arm = self._run.arm
        if arm != _WITHOUT_ADAPTER and not self._folder.arm(arm).adapter_path.is_file():
            return config, f"The arm {arm} has left no adapter in this folder."
        if not weights.is_file():
            name = config.model.backbone
            return config, (
                f"The backbone is not on this machine; run `evenhand weights get {name}` and "
                "start the page again."
            )
        return config, ""

    def _prepare_all(self) -> None:
        while True:
            with self._news:
                while not self._wanted:
                    self._news.wait()
                case_id, case = self._wanted.popitem()
            fault = ""
            try:
                self._prepare(case)
            except EvenhandError as error:
                fault = str(error)
            except Exception as error:  # noqa: BLE001 - the reader must hear that it ended
                fault = f"The model failed on this case ({type(error).__name__})."
            with self._news:
                self._wanted.pop(case_id, None)  # it was asked for again meanwhile
                if fault:
                    self._faults[case_id] = fault
                else:
                    self._ready.add(case_id)

    def _prepare(self, case: Case) -> None:
        """Load the model and embed a case, where that is not done yet."""
        if self._model is None:
            self._model = self._loaded()
        store = self._run.stores[case.patient.hospital]
        self._cache(case, self._model).fill(store, [case], lambda _: None)

    def _loaded(self) -> "AdaptedModel":
        from evenhand.model.adapter_files import load_onto

        model = build_model(self._known())
        adapter = self._folder.arm(self._run.arm).adapter_path
        if adapter.is_file():
            load_onto(adapter, model)
        return model

    def _cache(self, case: Case, model: "AdaptedModel") -> "EmbeddingCache":
        home = self._folder.hospital(case.patient.hospital)
        return home.cache(model, self._known().data.sequences[0])

    def _known(self) -> ExperimentConfig:
        if self._config is None:
            raise ResourceError(self._absent)
        return self._config
