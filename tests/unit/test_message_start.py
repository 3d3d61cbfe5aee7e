"""Flower starts a program for every message: it must not wait for what that does not need."""

import os
import subprocess
import sys

from evenhand_federated.hospital import NODE_VARIABLE
from federation_places import make_coordinator, make_hospital, make_study

HEAVY = [
    "torch",
    "scipy",
    "nibabel",
    "pydicom",
    "pandas",
    "sklearn",
    "matplotlib",
    "opacus",
    "monai",
    "ray",
]
"""Libraries of a third of a second each and more."""

WHAT_CAME_TOO = f"""
import sys
print(*sorted({{*{HEAVY}}} & {{*sys.modules}}))
"""
ASK_FOR_A_KEY = """
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from evenhand_federated.hospital_app import app

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
content = RecordDict({{"config": ConfigRecord({{"arm": "federated", "round": 1}})}})
message = Message(content, 10, "query.keys", ttl=60)
message.metadata.__dict__["_message_id"] = "one"
context = Context(1, 10, {{}}, RecordDict(), {{"study": "{digest}"}})
assert app(message, context).has_content()
"""


def came_with(code, **variables):
    """Heavy libraries that a fresh process has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code + WHAT_CAME_TOO],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_message_that_trains_nothing(tmp_path, tiny_stores):
    """Two of the three of a hidden round: from its start to its answer none of them is loaded."""
    centre = make_coordinator(tmp_path / "centre")
    north, _ = (
        make_hospital(tmp_path / name, centre, tiny_stores[name].path, name)
        for name in ("north", "south")
    )
    hidden = {"rounds": 3, "minimum_hospitals": 2, "secure_sum": True}
    study = make_study(centre, tmp_path / "study.toml", arms=["federated"], federation=hidden)
    north.approve(study, study.digest)
    code = ASK_FOR_A_KEY.format(digest=study.digest)
    assert came_with(code, **{NODE_VARIABLE: str(north.path)}) == []


def test_what_trains_loads_torch_alone():
    """Whatever else training needs is loaded by the training that needs it."""
    assert came_with("import evenhand_federated.site_guard, evenhand_federated.node") == ["torch"]
