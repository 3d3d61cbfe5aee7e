"""An archive of DICOM (PACS) over DICOMweb: search, fetch, store. The one place that talks to it.

    pacs = Pacs("https://pacs.hospital/dicom-web", read_login(None))
    for series in pacs.series(study_uid): ...
    pacs.store(datasets)

QIDO-RS, WADO-RS and STOW-RS of DICOM PS3.18, by `dicomweb-client`. Certificates are always
checked, plain http goes to this machine only, each request has a time limit and few retries, and
no message names anything but the archive's host: addresses hold UIDs, which lead to patients.
"""

import logging
import os
import re
import stat
import struct
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util.retry import Retry

from evenhand.errors import ResourceError, UsageError

__all__ = ["Login", "Pacs", "Place", "is_uid", "read_login"]

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
"""Between two pieces of an answer, not for the whole."""
_RETRIES = 3
_LONGEST_WAIT_SECONDS = 20
_BUSY = (429, 502, 503, 504)
_PAGE = 1000
_LOOPBACK = {"localhost", "127.0.0.1"}
_AS_STORED = (("application/dicom", "*"),)
_UID = re.compile(r"[0-9.]{1,64}")
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_ERRORS = (
    requests.RequestException,
    InvalidDicomError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    EOFError,
    TypeError,
    ValueError,
    struct.error,
)
"""What requests raises, and pydicom at an answer that is no DICOM."""
_ENVIRONMENT = "EVENHAND_PACS_"
_TALKATIVE = ("dicomweb_client", "retrying", "urllib3.connectionpool")
"""Loggers that write addresses, and so UIDs, at each retry."""


@dataclass(frozen=True)
class Login:
    """How to get into an archive: user and password, or a token; files for TLS.

    `ca_bundle` is a PEM file of authorities to trust instead of the system's;
    `client_certificate` a PEM file with a certificate and its key.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca_bundle: str = ""
    client_certificate: str = ""


@dataclass(frozen=True)
class Place:
    """What an address names: the archive's `root`, and perhaps a study and a series in it."""

    root: str
    study: str = ""
    series: str = ""

    @classmethod
    def of(cls, address: str) -> "Place":
        """Take apart `ROOT[/studies/UID[/series/UID]]`.

        Raises:
            UsageError: it is no such address, holds a login, or is plain http to another machine.
        """
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError("An archive's address looks like https://HOST/dicom-web.")
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                "The address holds a login, which others on this machine can read; give it in "
                f"the environment ({_ENVIRONMENT}USER, {_ENVIRONMENT}PASSWORD) or in a file."
            )
        if parts.query or parts.fragment:
            raise UsageError("An archive's address has no '?' and no '#'; leave them out.")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise UsageError(
                "Plain http would send images and the login in the clear; give an https address."
            )
        root, _, tail = f"{parts.path.rstrip('/')}/".partition("/studies/")
        found = re.fullmatch(r"(?:([0-9.]{1,64})/)?(?:series/([0-9.]{1,64})/)?", tail)
        if found is None or (found[2] and not found[1]):
            raise UsageError("After the archive's root only /studies/UID and /series/UID may come.")
        base = f"{parts.scheme}://{parts.netloc}{root.rstrip('/')}"
        return cls(base, found[1] or "", found[2] or "")


def is_uid(text: str) -> bool:
    """Whether a text can be a DICOM UID, also one with the zeros that the standard forbids."""
    return _UID.fullmatch(text) is not None


def read_login(path: Path | None) -> Login:
    """Read a login: from a TOML file, else from the environment.

    The file has the names of `Login`'s fields as keys, and only its owner may read it. In the
    environment they are `EVENHAND_PACS_USER`, `EVENHAND_PACS_PASSWORD` and so on.

    Raises:
        UsageError: the file is missing, readable by others, no TOML, or has another key.
    """
    names = [each.name for each in fields(Login)]
    if path is None:
        found = {name: os.environ.get(_ENVIRONMENT + name.upper(), "") for name in names}
        return Login(**found)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UsageError(f"Others can read '{path}', which holds a login; chmod 600 it.")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"'{path}' cannot be read as TOML; a login was wanted.") from None
    if not set(content) <= set(names) or not all(isinstance(v, str) for v in content.values()):
        raise UsageError(f"'{path}' may have the keys {', '.join(names)}, each a text.")
    return Login(**content)


class Pacs:
    """An archive at a root address, e.g. `https://pacs/dicom-web`; lists, fetches and stores."""

    def __init__(self, root: str, login: Login) -> None:
        place = Place.of(root)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.root = place.root
        self.host = urlsplit(place.root).netloc
        self._client = DICOMwebClient(
            place.root,
            session=_session(login, encrypted=place.root.startswith("https:")),
            permissive_uid=True,
            timeout=(_CONNECT_SECONDS, _READ_SECONDS),
        )
        self._client.set_http_retry_params(retry=False)  # the session's adapter does it

    def series(self, study: str) -> list[str]:
        """UIDs of the series of a study, sorted.

        Raises:
            ResourceError: the archive does not answer, refuses, or answers in another way.
        """
        with self._in_words():
            return self._all(_SERIES, self._client.search_for_series, study_instance_uid=study)

    def instances(self, study: str, series: str) -> list[str]:
        """UIDs of the objects of a series, sorted.

        Raises:
            ResourceError: the archive does not answer, refuses, or answers in another way.
        """
        with self._in_words():
            return self._all(
                _INSTANCE,
                self._client.search_for_instances,
                study_instance_uid=study,
                series_instance_uid=series,
            )

    def fetch_series(self, study: str, series: str) -> Iterator[Dataset]:
        """Yield the objects of a series as the archive keeps them; one at a time is in memory.

        Raises:
            ResourceError: the archive does not answer, refuses, or the answer breaks off.
        """
        with self._in_words():
            yield from self._client.iter_series(study, series, media_types=_AS_STORED)

    def fetch(self, study: str, series: str, instance: str) -> Dataset:
        """Fetch one object as the archive keeps it.

        Raises:
            ResourceError: the archive does not answer, refuses, or the answer breaks off.
        """
        with self._in_words():
            return self._client.retrieve_instance(study, series, instance, media_types=_AS_STORED)

    def store(self, datasets: Sequence[Dataset]) -> None:
        """Store objects, each with its file meta information. Storing one twice changes nothing.

        Raises:
            ResourceError: the archive does not answer, or does not take all of them.
        """
        with self._in_words():
            answer = self._client.store_instances(datasets)
        failed = len(answer.get("FailedSOPSequence") or ())
        if failed:
            raise ResourceError(
                f"The archive at {self.host} did not take {failed} of {len(datasets)} object(s); "
                "its own log says why."
            )

    def _all(self, tag: str, search: Any, **where: str) -> list[str]:
        """Search page by page until nothing new comes: not all archives know how to count."""
        found: set[str] = set()
        offset = 0
        while True:
            rows = search(limit=_PAGE, offset=offset, **where)
            values = {str(row[tag]["Value"][0]) for row in rows}
            if not values <= found and not all(map(is_uid, values)):
                raise ValueError("not UIDs")
            if values <= found:
                return sorted(found)
            found |= values
            offset += len(rows)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn what the network does into a sentence without UIDs."""
        try:
            yield
        except _ERRORS as error:
            raise ResourceError(f"The archive at {self.host} {_what(error)}") from None


class _Session(requests.Session):
    """Lets a named authority count: `requests` would let REQUESTS_CA_BUNDLE take its place."""

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        named = self.verify if verify is None and self.verify is not True else verify
        return super().merge_environment_settings(url, proxies, stream, named, cert)


class _Bearer(AuthBase):
    """A token in each request; as an `auth`, so that no .netrc takes its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _session(login: Login, *, encrypted: bool) -> requests.Session:
    """Return a session that retries what may be asked twice.

    Raises:
        UsageError: a file of the login is missing, or both a password and a token are given.
    """
    if login.token and login.user:
        raise UsageError("The login has a user and a token; one of them is wanted.")
    session = _Session()
    for path in filter(None, (login.ca_bundle, login.client_certificate)):
        if not Path(path).is_file():
            raise UsageError(f"The login names a file '{path}', which is not there.")
    if login.ca_bundle:
        session.verify = login.ca_bundle
    if login.client_certificate:
        session.cert = login.client_certificate
    if login.token:
        session.auth = _Bearer(login.token)
    elif login.user:
        session.auth = (login.user, login.password)
    retry = Retry(
        total=_RETRIES,
        status_forcelist=_BUSY,
        backoff_factor=0.5,
        backoff_max=_LONGEST_WAIT_SECONDS,
        retry_after_max=_LONGEST_WAIT_SECONDS,
        raise_on_status=False,
    )
    session.max_redirects = 3
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.mount("http://", HTTPAdapter(max_retries=retry))
    if encrypted:
        del session.adapters["http://"]  # no way back into the clear, not by a redirect either
    return session


def _what(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return (
            "has a certificate that is not trusted. Name the hospital's authority in the login "
            f"(ca_bundle, or {_ENVIRONMENT}CA_BUNDLE)."
        )
    if isinstance(error, requests.exceptions.HTTPError):
        return _refusal(error.response.status_code)
    if isinstance(error, requests.exceptions.Timeout):
        return "did not answer in time. Run again; what was fetched is kept."
    if isinstance(error, requests.exceptions.ConnectionError):
        return "cannot be reached. Check the address and the network."
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off in the middle. Run again; what was fetched is kept."
    return "gave no answer of DICOMweb. Check the address; its path often ends in /dicom-web."


def _refusal(status: int) -> str:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return (
            f"refused the login (status {status}). Give user and password, or a token, in the "
            f"environment ({_ENVIRONMENT}USER, {_ENVIRONMENT}PASSWORD, {_ENVIRONMENT}TOKEN) or in "
            "a file."
        )
    if status == HTTPStatus.NOT_FOUND:
        return "has nothing there (status 404). Check the address and the UIDs."
    return f"refused (status {status}). Run again later, or ask who runs it."
