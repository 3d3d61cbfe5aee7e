"""Rules of the house that no single module can keep alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "platform/evenhand",
    "federated/evenhand_federated",
    "audit/evenhand_audit",
    "ui/evenhand_ui",
)
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

LARGEST_FILE_BYTES = 1_500_000
PATIENT_IMAGES = {".nii", ".gz", ".dcm", ".mha", ".mhd", ".nrrd", ".tif", ".tiff", ".npy", ".npz"}
WEIGHTS = {".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".bin", ".h5", ".pkl"}
RECORDS = {".sqlite", ".db", ".key", ".pem"}
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"}

SHADOW_PROBE = "import platform; assert platform.python_version()"
"""What breaks when a package named `platform` stands on the path before Python's own."""


def tracked():
    """Files that git knows."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("this is not a git checkout")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


def run(code, folder):
    """Run code with `folder` first on the path, as `python -m` and many tools do."""
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); "
    return subprocess.run(
        [sys.executable, "-c", start + code], cwd=folder, capture_output=True, check=False
    )


class TestPlatform:
    """The folder `platform/` is a room of the house and must never become a package."""

    def test_folder_has_no_init(self):
        """With an `__init__.py` it would shadow Python's `platform` module."""
        assert (ROOT / "platform" / "evenhand" / "__init__.py").is_file()
        assert not (ROOT / "platform" / "__init__.py").exists()

    def test_pythons_own_module_is_found_from_the_root(self):
        """torch, which asks `platform` at import, works with the root on the path."""
        result = run(SHADOW_PROBE + "; import torch", ROOT)
        assert result.returncode == 0, result.stderr.decode()

    def test_the_probe_notices_a_package(self, tmp_path):
        """The test above would fail if the folder became one."""
        (tmp_path / "platform").mkdir()
        assert run(SHADOW_PROBE, tmp_path).returncode == 0
        (tmp_path / "platform" / "__init__.py").touch()
        assert run(SHADOW_PROBE, tmp_path).returncode != 0


def bound_names(body):
    """Names that top-level statements bind, those under `if` and `try` included."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from ((name.asname or name.name).partition(".")[0] for name in node.names)
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If():
                yield from bound_names([*node.body, *node.orelse])
            case ast.Try():
                yield from bound_names([*node.body, *node.orelse, *node.finalbody])


def exported(tree):
    """The names in `__all__`, or None where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return ast.literal_eval(node.value)
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_is_complete_and_true(path):
    """`__all__` lists each public def and class, and nothing that is not there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = {
        node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")
    }
    names = exported(tree)
    assert names is not None or not public, f"{path.name} has no __all__ and defines {public}"
    names = names or []
    assert len(names) == len(set(names)), "a name is listed twice"
    assert public - set(names) == set(), "public, but not in __all__"
    assert set(names) - set(bound_names(tree.body)) == set(), "in __all__, but not there"


class TestTracked:
    """What may be in the repository."""

    def test_nothing_large(self):
        """Results are numbers and small pictures; data and weights live elsewhere."""
        large = [path.name for path in tracked() if path.stat().st_size > LARGEST_FILE_BYTES]
        assert large == []

    def test_no_patient_image_weights_or_record(self):
        """Neither patients nor checkpoints get in; pictures only in docs/, of phantoms."""
        files = tracked()
        forbidden = PATIENT_IMAGES | WEIGHTS | RECORDS
        assert [path.name for path in files if path.suffix.lower() in forbidden] == []
        pictures = [path for path in files if path.suffix.lower() in PICTURES]
        assert [path for path in pictures if ROOT / "docs" not in path.parents] == []

    def test_no_machine_path_and_no_registry_host(self):
        """The code runs on any machine and with any mirror: neither is written down."""
        # Put together from pieces, so that this file does not hold what it forbids.
        folders = r"work|root|home/\w|Users/\w|opt/py\w"
        hosts = [r"pypi\.{}", r"files\.pythonhosted\.{}", r"download\.pytorch\.{}"]
        forbidden = re.compile(
            rf"(?<![\w.$~{{}}-])/(?:{folders})\b|" + "|".join(host.format("org") for host in hosts)
        )
        assert forbidden.search("see /" + "work/main")
        assert forbidden.search("https://pypi" + ".org/simple")
        assert not forbidden.search("the frame/work of a run")
        found = []
        for path in tracked():
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            for number, line in enumerate(text.splitlines(), start=1):
                if forbidden.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
        assert found == []
