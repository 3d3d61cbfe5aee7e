"""The page's routes, and the gate before them, for the run that this process reviews."""

from starlette.middleware import Middleware
from starlette.routing import Route

from evenhand.errors import UsageError
from evenhand_ui.gate import Gate
from evenhand_ui.office import Office
from evenhand_ui.options import RUN_VARIABLE
from evenhand_ui.page import current_office
from evenhand_ui.routes import make_routes

__all__ = ["middleware", "routes"]


def routes() -> list[Route]:
    """Return the routes; which run it is, is asked when the first request comes."""
    return make_routes(_office)


def middleware() -> list[Middleware]:
    """Return what stands before page and routes."""
    return [Middleware(Gate, office=current_office)]


def _office() -> Office:
    office = current_office()
    if office is None:
        raise UsageError(f"No run to review: set {RUN_VARIABLE}.")
    return office
