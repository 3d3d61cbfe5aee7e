"""The door for faces: a head is stored without its face, or with a reason that stays with it."""

from dataclasses import dataclass, replace

from evenhand.errors import DataError
from evenhand.ingest.faces.deface import MARGIN_MM, deface, find_brain
from evenhand.ingest.faces.judge import BodyPart, judge
from evenhand.ingest.recipes import Content

__all__ = ["FacePolicy", "guarded"]


_HEADER: dict[str, BodyPart] = {"head": "head", "other": "other"}


@dataclass(frozen=True)
class FacePolicy:
    """What the user wants: `body_part` if it is known, faces removed, or kept for a reason."""

    body_part: BodyPart = ""
    deface: bool = False
    keep_because: str = ""

    @property
    def mark(self) -> str:
        """What the source of a case says beside its fingerprint: other policies store others."""
        return ", defaced" if self.deface else ", faces kept" if self.keep_because else ""


def guarded(content: Content, policy: FacePolicy) -> Content:
    """Return what may be stored, with evidence of how it was judged and what was done.

    Raises:
        DataError: there may be a face, and the policy neither removes nor keeps it.
        ResourceError: faces are to be removed, and the tool is not installed.
    """
    header = _HEADER.get(content.acquisition.get("body_part", ""), "")
    found = judge(content.images, content.affine, said=policy.body_part, header=header)
    record: dict[str, object] = {"judged": found.why}
    if found.face and policy.deface:
        brain = find_brain(content.images, content.affine)
        made = deface(content.images, content.mask, brain, content.affine)
        content = replace(content, images=made.images)
        how = f"kept: what is within {MARGIN_MM:g} mm of the brain (deepbet) or the tumour"
        record |= {"removed": how, **made.facts}
    elif found.face and policy.keep_because:
        record["kept because"] = policy.keep_because
    elif found.face:
        raise DataError(
            f"it may show a face ({found.why}). Remove faces with --deface; or say what it is with "
            "--body-part brain (skull-stripped) or other; or why faces may stay, with --keep-faces."
        )
    return replace(content, evidence={**content.evidence, "faces": record})
