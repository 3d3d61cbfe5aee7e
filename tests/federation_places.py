"""A coordinator and a hospital on disk, without any process."""

from evenhand.config import ExperimentConfig
from evenhand.model.weights import find
from evenhand_federated.coordinator import CoordinatorFolder, Member
from evenhand_federated.enrolment import EnrolmentAnswer
from evenhand_federated.hospital import HospitalFolder
from evenhand_federated.study import StudyTerms, read_study, sign_study, write_draft

HOSPITALS = ("north", "south")


def make_coordinator(folder, *, port=9400):
    """A coordinator on loopback."""
    return CoordinatorFolder.make(
        folder, name="Centre", host="localhost", listen="127.0.0.1", port=port
    )


def make_study(coordinator, path, *, hospitals=HOSPITALS, arm="federated", **sections):
    """A signed study of a small experiment, whose numbers travel as they are unless it is said."""
    raw = {
        "name": "tiny",
        "data": {"source": "nowhere"},
        "federation": {"rounds": 3, "round_timeout_s": 5},
        "privacy": {"rounds": 2, "steps_per_round": 1},
    }
    raw |= sections
    raw["federation"] = {"precision": "float32"} | raw["federation"]
    terms = StudyTerms.of(
        ExperimentConfig.model_validate(raw),
        arm=arm,
        hospitals=hospitals,
        coordinator=coordinator.identity(),
        weights_sha256=find("mobile-sam").sha256,
        keys={name: member.public_key for name, member in coordinator.members().items()},
    )
    write_draft(path, terms)
    sign_study(path, coordinator.key())
    return read_study(path)


def make_hospital(folder, coordinator, store, name="north"):
    """A hospital that has joined, and was admitted."""
    own = HospitalFolder.join(folder, coordinator.invitation(name), store)
    from evenhand.config_files import load_section

    coordinator.admit(load_section(own.answer_path, EnrolmentAnswer))
    return own


def admit_by_name(coordinator, names=HOSPITALS, first_node=10):
    """Members without nodes, for tests that need no key."""
    for number, name in enumerate(names):
        key = f"ecdsa-sha2-nistp384 {'A' * (8 + 4 * number)}"
        coordinator.keep_member(Member(name, key, "2026-01-01", first_node + number))
