"""The routes that carry voxels and decisions between viewer and server.

    GET  /evenhand/viewer/VERSION/FILE          the viewer's own code; no ticket
    GET  /evenhand/case/CASE/image/NUMBER       int16, and how to read it as JSON in a header
    GET  /evenhand/case/CASE/other/NUMBER       image of another study of the patient, with its grid
    GET  /evenhand/case/CASE/proposal           gzip uint8 of the box that holds the mask
    GET  /evenhand/case/CASE/uncertainty        likewise, 0 sure to 255 even; 204: not kept
    GET  /evenhand/case/CASE/draft              the reader's own, likewise; 204: none
    PUT  /evenhand/case/CASE/draft              continues the revision in If-Match; 412: another did
    POST /evenhand/case/CASE/seen               slices shown; answers which are missing
    GET  /evenhand/case/CASE/prompt             whether the model can be asked
    POST /evenhand/case/CASE/prompt             box and points; answers a suggested mask of a slice
    POST /evenhand/case/CASE/carry              a slice's mask; answers its neighbours' one by one
    POST /evenhand/case/CASE/decision           accept, correct, reject, cannot judge

Streamlit's protection does not cover routes of one's own. Each request wants a
ticket in a header (`tickets.py`), which no foreign page can set; a foreign
Origin is refused all the same. What the ticket's person may do in their role is
looked up each time (`access.py`). What is drawn, seen and said comes with the
reading that the viewer shows (X-Evenhand-Reading; 409: it is not the present
one). Who must judge unaided gets nothing of the model. Bodies are capped while
they are read, masks while they are unpacked. Nothing is cached but the viewer's
code.
"""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from evenhand.errors import (
    DataError,
    EvenhandError,
    ResourceError,
    ReviewAwayError,
    ReviewError,
)
from evenhand.review import Reason, Verdict, claim_case
from evenhand_ui.access import admit
from evenhand_ui.deciding import Answer, decide, keep_for_signature
from evenhand_ui.drafts import Box, DraftConflictError
from evenhand_ui.gate import LOGIN_HEADER
from evenhand_ui.masks import read_uncertainty
from evenhand_ui.office import Office, ProposalChangedError, Reading
from evenhand_ui.prompting import parts_of, read_prompt, read_seed, turn_slice
from evenhand_ui.tickets import READ, WRITE, TicketError
from evenhand_ui.volumes import Canonical, Pixels, grid_of, pack, unpack

__all__ = ["BODY_LIMIT_BYTES", "make_routes", "viewer_sources", "viewer_version"]

BODY_LIMIT_BYTES = 16 << 20
"""Largest body that is read. A packed mask of 512 x 512 x 300 has well under 1 MiB."""

_THIS_MACHINE = frozenset({"127.0.0.1", "::1"})
_SMALL_BODY_BYTES = 64 << 10
_KINDS = {".js": "text/javascript", ".css": "text/css"}
_UNAIDED = frozenset(
    {"image/{number:int}", "other/{number:int}", "proposal", "draft", "seen", "decision"}
)
"""What is answered before the proposal may be shown; the proposal is empty then."""

_Endpoint = Callable[[Request], Awaitable[Response]]
_Work = Callable[[Office, Reading, Request, bytes], Response]


class _RequestError(EvenhandError):
    """A request that is refused before anybody looks into it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@cache
def viewer_sources() -> dict[str, bytes]:
    """Return the viewer's files by name, as they are in the package."""
    folder = files("evenhand_ui") / "viewer"
    names = [one.name for one in folder.iterdir() if one.name.endswith(tuple(_KINDS))]
    return {name: (folder / name).read_bytes() for name in sorted(names)}


@cache
def viewer_version() -> str:
    """Return a hash of the viewer's files: a browser never mixes two versions."""
    digest = sha256()
    for name, content in viewer_sources().items():
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()[:12]


def make_routes(office: Callable[[], Office]) -> list[Route]:
    """Return the routes; `office` is asked at each request."""

    def route(path: str, method: str, action: str, limit: int, work: _Work) -> Route:
        endpoint = _guarded(office, action, limit, work, unaided=path in _UNAIDED)
        return Route(f"/evenhand/case/{{case}}/{path}", endpoint, methods=[method])

    return [
        Route("/evenhand/viewer/{version}/{name}", _viewer_file, methods=["GET"]),
        route("image/{number:int}", "GET", READ, 0, _image),
        route("other/{number:int}", "GET", READ, 0, _other),
        route("proposal", "GET", READ, 0, _proposal),
        route("uncertainty", "GET", READ, 0, _uncertainty),
        route("draft", "GET", READ, 0, _draft),
        route("draft", "PUT", WRITE, BODY_LIMIT_BYTES, _save),
        route("seen", "POST", WRITE, _SMALL_BODY_BYTES, _seen),
        route("prompt", "GET", READ, 0, _readiness),
        route("prompt", "POST", WRITE, _SMALL_BODY_BYTES, _prompt),
        route("carry", "POST", WRITE, _SMALL_BODY_BYTES, _carry),
        route("decision", "POST", WRITE, _SMALL_BODY_BYTES, _decide),
    ]


async def _viewer_file(request: Request) -> Response:
    name = request.path_params["name"]
    content = viewer_sources().get(name)
    if content is None or request.path_params["version"] != viewer_version():
        return _refusal(404, "There is no such file; reload the page.")
    kind = _KINDS["." + name.rpartition(".")[2]]
    lasting = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, media_type=kind, headers=lasting)


def _guarded(
    office: Callable[[], Office], action: str, limit: int, work: _Work, *, unaided: bool
) -> _Endpoint:
    """Let a request through to `work` when origin, ticket, person, case and size are in order."""

    async def endpoint(request: Request) -> Response:
        try:
            _check_origin(request)
            own = await run_in_threadpool(office)
            opaque = request.path_params["case"]
            given = request.headers.get("x-evenhand-ticket", "")
            grant = own.tickets.check(given, opaque, action, now_s=time.time())
            case_id = own.case_id(opaque)
            body = await _body(request, limit)

            def answer() -> Response:
                header = request.headers.get(LOGIN_HEADER, "")
                admit(own, grant, case_id, action, header=header, cookies=request.cookies)
                reading = own.reading(case_id, grant.reader, grant.role)
                _check_aid(reading, unaided=unaided)
                return work(own, reading, request, body)

            response = await run_in_threadpool(answer)
        except ClientDisconnect:
            response = _refusal(400, "The connection was cut.")
        except EvenhandError as error:
            response = _refused(error)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return endpoint


def _refused(error: EvenhandError) -> JSONResponse:
    """Say no, in the way that the viewer understands: 5xx means that it may try again."""
    match error:
        case TicketError():
            return _refusal(401 if error.expired else 403, str(error))
        case DraftConflictError():
            return _refusal(412, str(error), revision=error.revision)
        case _RequestError():
            return _refusal(error.status, str(error))
        case ReviewAwayError() | ResourceError():
            return _refusal(503, str(error))
        case ReviewError():
            changed = isinstance(error, ProposalChangedError)
            return _refusal(409, str(error), changed=changed)
        case _:
            return _refusal(422, str(error))


def _check_aid(reading: Reading, *, unaided: bool) -> None:
    if reading.unaided and not unaided:
        raise _RequestError(409, "Judge the case yourself first; then this opens.")


def _check_origin(request: Request) -> None:
    origin = request.headers.get("origin")
    try:
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    except ValueError:  # no address at all
        foreign = True
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in {
        "same-origin",
        "none",
    }:
        raise _RequestError(403, "This request comes from another site.")


async def _body(request: Request, limit: int) -> bytes:
    too_large = _RequestError(413, "What was sent is larger than any mask; it was not read.")
    try:
        announced = int(request.headers.get("content-length", "0"))
    except ValueError:
        raise _RequestError(400, "The request's length is no number.") from None
    if announced > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _image(office: Office, reading: Reading, request: Request, _: bytes) -> Response:
    names = list(reading.case.sequences)
    number = request.path_params["number"]
    if not 0 <= number < len(names):
        raise _RequestError(404, "The case has no such sequence.")
    pixels = office.pixels(reading.case, names[number])
    return _image_answer(pixels, _how(pixels), request)


def _other(office: Office, reading: Reading, request: Request, _: bytes) -> Response:
    others, number = office.run.others(reading.case), request.path_params["number"]
    if number >= len(others):
        raise _RequestError(404, "There is no such study of this patient.")
    case, own = others[number], list(reading.case.sequences)
    names = sorted(case.sequences, key=lambda name: own.index(name) if name in own else len(own))
    pixels = office.pixels(case, names[0])
    canonical = Canonical(case.shape, case.affine)
    return _image_answer(pixels, _how(pixels) | {"grid": grid_of(canonical)}, request)


def _how(pixels: Pixels) -> dict[str, Any]:
    """How the viewer reads the numbers of an image."""
    return {
        "slope": pixels.slope,
        "intercept": pixels.intercept,
        "level": pixels.window.level,
        "width": pixels.window.width,
        "low": pixels.low,
        "high": pixels.high,
    }


def _image_answer(pixels: Pixels, how: dict[str, Any], request: Request) -> Response:
    head = {"X-Evenhand-Image": json.dumps(how)}
    if request.client is not None and request.client.host in _THIS_MACHINE:
        # Nothing is gained by packing; said outright, so that Streamlit does not pack it either.
        head["Content-Encoding"] = "identity"
        return Response(pixels.plain, media_type="application/octet-stream", headers=head)
    return _packed(pixels.packed, head)


def _proposal(_: Office, reading: Reading, __: Request, ___: bytes) -> Response:
    turned = reading.canonical.turn(reading.proposed)
    box = Box.around(turned)
    return _packed(pack(turned[box.slices]), {"X-Evenhand-Box": str(box)})


def _uncertainty(office: Office, reading: Reading, _: Request, __: bytes) -> Response:
    path = office.run.probability_path(reading.case.case_id)
    if not path.is_file():
        return Response(status_code=204)
    turned = reading.canonical.turn(read_uncertainty(path, reading.case))
    box = Box.around(turned)
    return _packed(pack(turned[box.slices]), {"X-Evenhand-Box": str(box)})


def _draft(office: Office, reading: Reading, __: Request, ___: bytes) -> Response:
    draft = office.drafts.read(reading.place)
    if draft.revision == 0:
        return Response(status_code=204)
    headers = {
        "X-Evenhand-Box": draft.box,
        "X-Evenhand-Strokes": str(draft.strokes),
        "ETag": f'"{draft.revision}"',
    }
    return _packed(office.drafts.content(reading.place, draft), headers)


def _save(office: Office, reading: Reading, request: Request, body: bytes) -> Response:
    base = _number(request.headers.get("if-match", "").strip('"'), "the revision it continues")
    strokes = _number(request.headers.get("x-evenhand-strokes", ""), "its strokes")
    box = Box.parse(request.headers.get("x-evenhand-box", ""), reading.canonical.turned_shape)
    unpack(body, box.shape)
    reading.demand(_shown(request))
    _hold(office, reading)
    with reading.lock:
        office.demand_open(reading)
        draft = office.drafts.save(reading.place, body, box, base=base, strokes=strokes)
    return JSONResponse({"revision": draft.revision})


def _seen(office: Office, reading: Reading, request: Request, body: bytes) -> Response:
    shown = _json(body).get("slices")
    if not isinstance(shown, list) or not all(type(one) is int for one in shown):
        raise _RequestError(400, "A report of slices is a list of numbers.")
    reading.demand(_shown(request))
    _hold(office, reading)
    with reading.lock:
        office.demand_open(reading)
        reading.sitting.report(shown, time.monotonic())
        seen = tuple(sorted(reading.sitting.seen))
        office.drafts.note(reading.place, seen=seen, seconds=reading.sitting.seconds)
    return JSONResponse({"missing": reading.sitting.missing})


def _readiness(office: Office, reading: Reading, request: Request, _: bytes) -> Response:
    canonical, said, shown = reading.canonical, request.query_params.get("slice"), None
    if said is not None:
        last = canonical.turned_shape[canonical.slice_axis] - 1
        shown = canonical.stored_slice(min(_number(said, "its slice"), last))
    return JSONResponse(asdict(office.assistant.readiness(reading.case, shown)))


def _prompt(office: Office, reading: Reading, _: Request, body: bytes) -> Response:
    office.assistant.demand(reading.case)
    prompt = read_prompt(_json(body), reading.canonical)
    mask = office.assistant.answer(reading.case, prompt)
    voxels, box = turn_slice(mask, prompt.index, reading.canonical)
    return _packed(pack(voxels), {"X-Evenhand-Box": str(box)})


def _carry(office: Office, reading: Reading, request: Request, body: bytes) -> Response:
    office.assistant.demand(reading.case)
    box = Box.parse(request.headers.get("x-evenhand-box", ""), reading.canonical.turned_shape)
    mask, index = read_seed(body, box, reading.canonical)
    further = office.assistant.carry_on(reading.case, mask, index)
    # Neither packed nor held back on the way: each slice is drawn when it is there.
    head = {"Content-Encoding": "identity", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        parts_of(further, reading.canonical), media_type="application/octet-stream", headers=head
    )


def _decide(office: Office, reading: Reading, request: Request, body: bytes) -> Response:
    said = _json(body)
    try:
        answer = Answer(
            verdict=Verdict(said["verdict"]),
            reason=Reason(said["reason"]) if said.get("reason") else None,
            comment=str(said.get("comment", "")),
            revision=int(said["revision"]),
            shown=_shown(request),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _RequestError(400, "This decision cannot be read; reload the page.") from None
    reading.demand(answer.shown)
    if answer.verdict is Verdict.WITHDRAW:
        raise _RequestError(400, "A decision is withdrawn in its history.")
    with reading.lock:
        reading.sitting.report((), time.monotonic())
    decides = not reading.unaided or answer.verdict is Verdict.CANNOT_JUDGE
    if office.rules.verified and decides:
        keep_for_signature(office, reading, answer, now_s=time.time())
        return JSONResponse({"position": None})  # the page asks for the signature
    entry = decide(office, reading, answer, now_s=time.time())
    return JSONResponse({"position": entry.position})


def _hold(office: Office, reading: Reading) -> None:
    """Renew the reader's claim, or tell that the case was taken over."""
    case_id = reading.case.case_id
    claim = claim_case(
        office.store,
        office.run.arm,
        case_id,
        reading.reader,
        now_s=time.time(),
        stage=reading.stage,
    )
    if claim.reader != reading.reader:
        raise ReviewError(f"{claim.reader} has taken this case over; your draft is kept.")


def _shown(request: Request) -> str:
    """Which reading the viewer shows: what is sent is about that one, or about nothing."""
    return request.headers.get("x-evenhand-reading", "")


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise DataError(f"A mask came without {what}; reload the page.")
    return int(text)


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _RequestError(400, "This request cannot be read; reload the page.")
    return value


def _packed(content: bytes, headers: dict[str, str]) -> Response:
    # Named as packed, so that neither Streamlit packs it again nor the viewer must unpack it.
    return Response(
        content,
        media_type="application/octet-stream",
        headers={**headers, "Content-Encoding": "gzip"},
    )


def _refusal(status: int, message: str, **more: object) -> JSONResponse:
    return JSONResponse({"error": message, **more}, status_code=status)
