"""The Flower ClientApp of a real hospital: approved studies only, and every message written down.

As in `client_app`, of an error only its kind leaves. Nothing leaves that is not in the
hospital's own log of messages first.
"""

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from evenhand.errors import FederationError
from evenhand.experiment.layout import HospitalHome
from evenhand.training.personal import stays
from evenhand_federated import wire
from evenhand_federated.answers import note, refusal
from evenhand_federated.certified import context_of
from evenhand_federated.fixed_point import ring_of
from evenhand_federated.hospital import HospitalFolder
from evenhand_federated.masked_sum import RefusedSumError
from evenhand_federated.message_log import MessageLog, weigh
from evenhand_federated.one_piece import is_in_one_piece, joined, taken_apart
from evenhand_federated.orders import RoundOrder, fewest_answers, precision_of
from evenhand_federated.secure_hospital import AGREE, KEYS, UNMASK, SecureRound
from evenhand_federated.study import SignedStudy

__all__ = ["agree", "app", "give_key", "train", "unmask"]

_OPENS = "shares that open the sum"
"""How the log calls them."""

_ASKED = ("train", KEYS, AGREE, UNMASK)
"""All that a hospital can be asked; its logs, for one, are not among it."""


class _OnlyWhatIsAsked(ClientApp):
    """Flower's app, that also writes down what it does not do, and answers as it was asked."""

    def __call__(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if kind not in _ASKED:
            return _refused(message, "a question that no hospital answers", kind[:100])
        if not (message.has_content() and is_in_one_piece(message.content)):
            return super().__call__(message, context)
        try:
            message.content = taken_apart(message.content)
        except FederationError as error:
            return _refused(message, "tensors", str(error))
        answer = super().__call__(message, context)
        if answer.has_content():
            try:
                answer.content = joined(answer.content)
            except FederationError as error:
                return _refused(message, "an answer", str(error))
        return answer


def _refused(message: Message, what: str, why: str) -> Message:
    """Write down that something is not done; the answer that says so."""
    try:
        HospitalFolder.of_environment().messages().add("refused", what=what, why=why)
    except Exception as error:  # noqa: BLE001 - nothing of it may leave unseen
        return refusal(error, message)
    return refusal(FederationError("Hospitals do not answer such a question."), message)


app = _OnlyWhatIsAsked()


Handler = Callable[["_Task"], tuple[str, Message]]
"""Does what a message asks; says in words what leaves, and gives the answer."""


@dataclass(frozen=True)
class _Task:
    """A message of an approved study."""

    message: Message
    folder: HospitalFolder
    study: SignedStudy
    order: RoundOrder

    @property
    def home(self) -> HospitalHome:
        """What the hospital keeps of the study."""
        return self.folder.home(self.study)

    def secure_round(self) -> SecureRound:
        """The hospital's part in a sum that hides its numbers.

        Raises:
            FederationError: this study is in clear.
        """
        terms, home = self.study.terms, self.home
        if not terms.is_hidden:
            raise FederationError("This study does not hide updates; such a message is not for it.")
        context = context_of(self.study.digest, self.order.round, self.message.metadata.run_id)
        config = terms.config()
        fewest = fewest_answers(config, terms.arm, len(terms.hospitals))
        key_path = self.folder.key_path
        return SecureRound(
            home.path,
            home.name,
            context,
            fewest,
            number=self.order.round,
            roll=terms.roll,
            key_path=key_path,
            was_opened=self._was_opened(),
            ring=ring_of(precision_of(config, terms.arm)),
        )

    def _was_opened(self) -> bool:
        facts = {"what": _OPENS, "digest": self.study.digest, "round": self.order.round}
        sent = (one.body() for one in self.folder.messages().entries() if one.kind == "sent")
        return any(facts.items() <= body.items() for body in sent)


def _guarded(what: str) -> Callable[[Handler], Callable[[Message, Context], Message]]:
    """A handler that lets of an error only the kind out, and writes everything down."""

    def guard(handler: Handler) -> Callable[[Message, Context], Message]:
        @functools.wraps(handler)
        def guarded(message: Message, context: Context) -> Message:
            try:
                folder = HospitalFolder.of_environment()
                return _answer(what, handler, folder, message, context)
            except Exception as error:  # noqa: BLE001 - nothing of it may leave unseen
                return refusal(error, message)

        return guarded

    return guard


@app.query("keys")
@_guarded("question for a key")
def give_key(task: _Task) -> tuple[str, Message]:
    """Begin a sum that hides this hospital's numbers."""
    return "key for one sum", task.secure_round().answer_keys(task.message)


@app.query("agree")
@_guarded("list of those whose numbers came")
def agree(task: _Task) -> tuple[str, Message]:
    """Sign whose numbers came, where somebody's did not."""
    return "signature of that list", task.secure_round().answer_agree(task.message)


@app.query("unmask")
@_guarded("shares of those whose numbers came")
def unmask(task: _Task) -> tuple[str, Message]:
    """Open such a sum, once."""
    return _OPENS, task.secure_round().answer_unmask(task.message)


@app.train()
@_guarded("adapter to train")
def train(task: _Task) -> tuple[str, Message]:
    """Train one round of an approved study and answer with the hospital's adapter, or masked."""
    from evenhand_federated.node import HospitalNode  # with torch, which the others do not need

    study, message, order = task.study, task.message, task.order
    node = HospitalNode(
        task.home,
        study.terms.config(),
        task.folder.train_patients(study),
        study.terms.together,
        study.digest,
    )
    if study.terms.is_hidden:
        task.secure_round().check_keys(message.content)
    precision = node.precision(order.arm)
    common = wire.received(message.content, precision)
    before = common.to_torch_state_dict()
    after, figures = node.train_round(order, before)
    if not study.terms.is_hidden:
        leaving = wire.update(common, ArrayRecord(after), precision)
        content = RecordDict({**leaving, "metrics": MetricRecord(figures)})
        return "adapter", Message(content, reply_to=message)
    content = task.secure_round().mask(message.content, before, after, int(figures["patients"]))
    spent = {name: figures[name] for name in ("epsilon", "delta") if name in figures}
    if spent:
        content["metrics"] = MetricRecord(spent)
    return "masked update", Message(content, reply_to=message)


def _answer(
    what: str, handler: Handler, folder: HospitalFolder, message: Message, context: Context
) -> Message:
    digest = str(context.run_config.get("study", ""))
    log = folder.messages()
    try:
        study = folder.approved(digest)
        order = _order(message, study)
        _refuse_dead(log, message, digest, order)
        facts = {"study": study.terms.name, "digest": digest, "round": order.round}
        came = weigh(message.content)
        log.add(
            "received",
            what=what,
            message=message.metadata.message_id,
            bytes=came.bytes,
            sha256=came.sha256,
            **facts,
        )
    except Exception as error:
        why = str(error) if isinstance(error, FederationError) else type(error).__name__
        log.add("refused", what=what, study=digest[:64], why=why[:200])
        raise
    task = _Task(message, folder, study, order)
    try:
        leaving, answer = handler(task)
        parts = study.terms.federation.local_parts
        _refuse_what_stays(answer.content, parts)
    except Exception as error:
        note(task.home, traceback.format_exc())
        if isinstance(error, RefusedSumError):
            log.add("refused", what=what, why=str(error)[:300], **facts)
        else:
            log.add("failed", what=what, why=type(error).__name__, **facts)
        raise
    leaves = weigh(answer.content)
    figures = dict(answer.content.get("metrics", {}))
    charge = _charge(order, figures) if message.metadata.message_type == "train" else None
    log.add(
        "sent",
        what=leaving,
        bytes=leaves.bytes,
        sha256=leaves.sha256,
        tensors=sum(len(record) for record in answer.content.array_records.values()) or None,
        stayed=", ".join(parts) or None,
        figures=figures or None,
        charge=charge,
        **facts,
    )
    return answer


def _refuse_what_stays(content: RecordDict, parts: tuple[str, ...]) -> None:
    """Look once more at what is about to leave, whoever made it."""
    names = [name for record in content.array_records.values() for name in record]
    if any(stays(name, parts) for name in names):
        raise FederationError("A part of the adapter that stays here was about to leave; held.")


def _refuse_dead(log: MessageLog, message: Message, digest: str, order: RoundOrder) -> None:
    """Do nothing, and charge nothing, for a round that nobody waits for."""
    metadata = message.metadata
    if time.time() > metadata.created_at + metadata.ttl:
        raise FederationError("The time of this message is up: its round has gone on without it.")
    bodies = (entry.body() for entry in log.entries() if entry.kind == "received")
    latest = max((int(b["round"]) for b in bodies if b.get("digest") == digest), default=0)
    if order.round < latest:
        raise FederationError(f"Round {order.round} is over: round {latest} was begun here.")


def _order(message: Message, study: SignedStudy) -> RoundOrder:
    """The order in a message, if it is one for the arm that the study is about."""
    order = RoundOrder.of(message.content["config"])
    if order.arm != study.terms.arm:
        raise FederationError(f"The study is about {study.terms.arm}; something else was asked.")
    if not 1 <= order.round <= study.terms.rounds:  # a later one would end all that are to come
        raise FederationError(
            f"The study has {study.terms.rounds} rounds; {order.round} was asked."
        )
    return order


def _charge(order: RoundOrder, figures: dict[str, float | int]) -> str:
    if order.arm == "federated":
        return "none: this study makes no promise to patients"
    spent = figures.get("epsilon")
    return f"epsilon {spent:.4g} spent by this study so far" if spent else "see the ledger"
