"""What a reader says of a case, for tests of the page that are about something else."""

from evenhand.review import Reason
from evenhand_ui.answers import Answer


def about_its_boundary(reading, verdict, *, revision=0):
    """The verdict on the mask that the reading shows, for its boundary, of this draft."""
    return Answer(
        verdict=verdict,
        reason=Reason.BOUNDARY,
        comment="",
        revision=revision,
        shown=reading.place.name,
    )
