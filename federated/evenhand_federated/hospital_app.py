"""The Flower ClientApp of a real hospital: approved studies only, and every message written down.

As in `client_app`, of an error only its kind leaves. Nothing leaves that is not in the
hospital's own log of messages first.
"""

import traceback
from contextlib import suppress
from datetime import UTC, datetime

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from evenhand.errors import BudgetError, FederationError
from evenhand.experiment.layout import HospitalHome
from evenhand_federated.hospital import HospitalFolder
from evenhand_federated.message_log import MessageLog, weigh
from evenhand_federated.node import BUDGET_REFUSED, FAILED, HospitalNode, RoundOrder
from evenhand_federated.study import SignedStudy

__all__ = ["app", "train"]

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round of an approved study and answer with the hospital's adapter."""
    try:
        folder = HospitalFolder.of_environment()
        return _answer(folder, message, context)
    except Exception as error:  # noqa: BLE001 - nothing of it may leave unseen
        code = BUDGET_REFUSED if isinstance(error, BudgetError) else FAILED
        return Message(Error(code, type(error).__name__), reply_to=message)


def _answer(folder: HospitalFolder, message: Message, context: Context) -> Message:
    digest = str(context.run_config.get("study", ""))
    log = folder.messages()
    try:
        study = folder.approved(digest)
        order = _order(message, study)
        _refuse_replay(log, message)
    except Exception as error:
        why = str(error) if isinstance(error, FederationError) else type(error).__name__
        log.add("refused", what="train", study=digest[:64], why=why[:200])
        raise
    came = weigh(message.content)
    log.add(
        "received",
        what="adapter to train",
        study=study.terms.name,
        digest=digest,
        round=order.round,
        message=message.metadata.message_id,
        bytes=came.bytes,
        sha256=came.sha256,
    )
    home = folder.home(study)
    try:
        node = HospitalNode(home, study.terms.config(), folder.train_patients(study))
        state, figures = node.train_round(order, message.content["arrays"].to_torch_state_dict())
        content = RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord(figures)})
    except Exception as error:
        kind = type(error).__name__
        _keep(home, traceback.format_exc())
        log.add("failed", what="train", study=study.terms.name, round=order.round, why=kind)
        raise
    leaves = weigh(content)
    log.add(
        "sent",
        what="adapter",
        study=study.terms.name,
        digest=digest,
        round=order.round,
        bytes=leaves.bytes,
        sha256=leaves.sha256,
        figures=dict(figures),
        charge=_charge(order, figures),
    )
    return Message(content, reply_to=message)


def _refuse_replay(log: MessageLog, message: Message) -> None:
    if log.knows(message.metadata.message_id):
        raise FederationError("This message was here before: somebody replays it.")


def _order(message: Message, study: SignedStudy) -> RoundOrder:
    """The order in a message, if it is one for the arm that the study is about."""
    config = message.content["config"]
    order = RoundOrder(str(config["arm"]), int(config["round"]))
    if order.arm != study.terms.arm:
        raise FederationError(f"The study is about {study.terms.arm}; something else was asked.")
    return order


def _charge(order: RoundOrder, figures: dict[str, float | int]) -> str:
    if order.arm == "federated":
        return "none: this study makes no promise to patients"
    spent = figures.get("epsilon")
    return f"epsilon {spent:.4g} spent by this study so far" if spent else "see the ledger"


def _keep(home: HospitalHome, text: str) -> None:
    # A full disk must not turn into an error that names the log's path and leaves.
    with suppress(OSError), home.log_path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")
