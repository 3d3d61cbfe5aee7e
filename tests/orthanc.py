"""A real archive for tests: Debian's Orthanc with its DICOMweb plug-in, on 127.0.0.1 only."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from evenhand_federated.serve import free_port

__all__ = ["PASSWORD", "USER", "Orthanc", "needs_orthanc", "running_orthanc"]

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "reader", "loopback-only"
_START_SECONDS = 120

needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc") is None or not PLUGIN.exists(),
    reason="Debian's orthanc and orthanc-dicomweb are not installed",
)


@dataclass(frozen=True)
class Orthanc:
    """A running archive, by its DICOMweb address."""

    address: str


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start an empty archive whose files lie in `folder`, and end it afterwards."""
    port, dicom_port = free_port(), free_port()
    settings = {
        "Name": "tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [str(PLUGIN)],
        "HttpBindAddresses": ["127.0.0.1"],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "DicomPort": dicom_port,
        "RemoteAccessAllowed": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings))
    process = subprocess.Popen(
        ["Orthanc", str(configuration)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/system", process)
        yield Orthanc(f"http://127.0.0.1:{port}/dicom-web")
    finally:
        process.kill()
        process.wait()


def _wait(address: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "Orthanc ended"
        try:
            requests.get(address, auth=(USER, PASSWORD), timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("Orthanc did not start")
