"""The run's model, asked by a reader for one slice: loaded and made ready in the background.

A prompt is answered from the embedding cache. What is missing there is computed
by one thread: of the case that was asked for last, the slice on the screen first,
and then those around it. The model can be asked once that slice is there; a prompt
on another one goes before the rest. Nothing is downloaded, for a hospital's network
may be closed. torch is imported by that thread alone, so that opening a case does
not wait for it.
"""

import atexit
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    from evenhand.model.embeddings import EmbeddingCache, FrozenEncoder
    from evenhand.model.growing import GrowingSlices
    from evenhand.predict import OpenCase, SlicePrompt

__all__ = ["Assistant", "Readiness"]

_log = logging.getLogger(__name__)

_WITHOUT_ADAPTER = "box-zero-shot"
_KEPT_OPEN = 4
"""Cases whose slices stay in memory, 60 MB for a large one; and cases half read, with image and
activations, 250 MB for a large one."""
_WRITE_AGAIN_S = 60.0
"""How long activations that could not be written stay in memory before it is tried again."""
_LAST_SLICE_S = 10.0
"""How long the end of the server waits for the slice that is being computed."""


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
        self._growing: dict[str, tuple[OpenCase, GrowingSlices]] = {}
        self._unwritten: dict[str, Case] = {}
        self._shown: dict[str, int] = {}
        self._model: AdaptedModel | None = None
        self._encoder: FrozenEncoder | None = None
        self._worker: threading.Thread | None = None
        self._ended = False
        self._opening = 0
        self._config, self._absent = self._look()

    def readiness(self, case: Case, shown: int | None = None) -> Readiness:
        """Tell whether the model can be asked about a case, and begin what is missing.

        Args:
            case: the case.
            shown: the slice, k, that the reader has before them; None: nobody knows.
        """
        if self._config is None or self._absent:
            return Readiness("absent", self._absent)
        if self._config.data.sequences[0] not in case.sequences:
            return Readiness("absent", "The case lacks the sequence that the model reads.")
        with self._news:
            if shown is not None:
                self._shown[case.case_id] = shown
            if case.case_id in self._ready:
                return Readiness("ready")
            if case.case_id in self._faults:
                return Readiness("absent", self._faults[case.case_id])
            self._wanted.pop(case.case_id, None)
            self._wanted[case.case_id] = case  # last, so that it is taken first
            if self._worker is None:
                # A daemon: a server that ends waits for one slice, not for a case of minutes.
                # What is half computed is not written.
                self._worker = threading.Thread(target=self._prepare_all, daemon=True)
                self._worker.start()
                atexit.register(self.end)
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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no further slice be read ahead meanwhile: somebody waits for a case to open."""
        with self._news:
            self._opening += 1
        try:
            yield
        finally:
            with self._news:
                self._opening -= 1
                self._news.notify_all()

    def end(self) -> None:
        """Begin nothing more in the background; torch may not be at work when Python ends."""
        with self._news:
            self._ended = True
            self._news.notify_all()
        if self._worker is not None:
            self._worker.join(_LAST_SLICE_S)

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

    def carry_on(
        self, case: Case, mask: NDArray[np.uint8], index: int
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield neighbours k of a slice and their masks (i, j), as `evenhand.carrying.carry_on`.

        Raises:
            ResourceError: the model is not ready for this case.
        """
        from evenhand.carrying import carry_on

        model = self.demand(case)
        with self._asking:
            opened = self._open(case, model)
        further = carry_on(model, opened, mask, index, by_head=self._by_head)
        while True:
            with self._asking:  # not longer than for one slice: others ask as well
                found = next(further, None)
            if found is None:
                return
            yield found

    @property
    def _by_head(self) -> bool:
        """Whether the prompt head was trained to answer boxes."""
        return self._known().model.head_hints and self._run.arm != _WITHOUT_ADAPTER

    def _open(self, case: Case, model: "AdaptedModel") -> "OpenCase":
        """The case as the model sees it; the last few are kept, for the next prompt."""
        from evenhand.predict import OpenCase

        growing = self._growing.get(case.case_id)
        if growing is not None:
            return growing[0]
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
                pause = _WRITE_AGAIN_S if self._unwritten else None
                if not self._news.wait_for(lambda: self._wanted or self._ended, pause):
                    self._wanted.update(self._unwritten)
                if self._ended:
                    return
                case_id, case = self._wanted.popitem()
            fault, whole = "", True
            try:
                whole = self._prepare(case)
            except EvenhandError as error:
                fault = str(error)
            except Exception as error:  # noqa: BLE001 - the reader must hear that it ended
                fault = f"The model failed on this case ({type(error).__name__})."
            with self._news:
                self._wanted.pop(case_id, None)  # it was asked for again meanwhile
                if fault:
                    self._faults[case_id] = fault
                    self._ready.discard(case_id)
                    self._growing.pop(case_id, None)
                elif whole:
                    self._ready.add(case_id)
                else:  # after those that wait for their first slice
                    self._wanted = {case_id: case, **self._wanted}

    def _prepare(self, case: Case) -> bool:
        """Load the model and embed a case, where that is not done yet; False: others wait."""
        if self._model is None:
            self._model = self._loaded()
        model, name = self._model, case.case_id
        cache = self._cache(case, model)
        if not cache.missing([case]):
            return True
        opened, slices = self._growing.get(name) or self._grow(case, model)
        while not slices.whole:
            with self._news:
                self._news.wait_for(lambda: not self._opening or self._ended)
            slices.near = self._shown.get(name, len(slices) // 2)
            slices.grow()
            with self._news:
                self._keep(name, opened, slices)
                if self._ended or any(other not in self._ready for other in self._wanted):
                    return False
        try:
            cache.write(case, slices[:])
        except ResourceError as error:  # all is in memory: the model can be asked all the same
            _log.error("%s It is tried again.", error)
            with self._news:
                self._unwritten[name] = case
            return True
        with self._news:
            self._growing.pop(name, None)
            self._unwritten.pop(name, None)
        return True

    def _keep(self, name: str, opened: "OpenCase", slices: "GrowingSlices") -> None:
        """Answer prompts from a case that is half read; the oldest beyond a few is given up.

        It is read again when somebody asks for it. Called with `_news` held.
        """
        self._growing.setdefault(name, (opened, slices))
        self._ready.add(name)
        while len(self._growing) > _KEPT_OPEN:
            oldest = next(iter(self._growing))
            del self._growing[oldest]
            self._ready.discard(oldest)
            self._wanted.pop(oldest, None)
            self._unwritten.pop(oldest, None)

    def _grow(self, case: Case, model: "AdaptedModel") -> "tuple[OpenCase, GrowingSlices]":
        from evenhand.model.embeddings import FrozenEncoder
        from evenhand.predict import OpenCase

        if self._encoder is None:
            self._encoder = FrozenEncoder(model.backbone, model.tail_blocks, model.precision)
        store = self._run.stores[case.patient.hospital]
        return OpenCase.growing(model, store, self._encoder, case)

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
