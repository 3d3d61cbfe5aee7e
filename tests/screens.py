"""What viewers show: the reading that each has loaded, until it loads the case anew."""

from contextlib import suppress

from evenhand.errors import EvenhandError
from evenhand.review import Role


class Screens:
    """Which reading each person's viewer shows of a case; whoever fetches the proposal loads it."""

    def __init__(self, office):
        self._office = office
        self._shown = {}

    def shown(self, method, path, case, who, role=Role.READER):
        """The name that the viewer sends with a request."""
        if method == "GET" and path != "proposal":
            return ""
        key = (case, who, role)
        if path == "proposal" or key not in self._shown:
            with suppress(EvenhandError):  # the route tells it
                self._shown[key] = self._office.reading(case, who, role).place.name
        return self._shown.get(key, "")
