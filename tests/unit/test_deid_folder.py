"""`evenhand deidentify` and `evenhand forget`, as their users call them."""

import errno
import gzip
import json
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from evenhand.cases.erase import mentions
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.errors import DataError, EvenhandError, ResourceError, StoreError, UsageError
from evenhand.ingest.deid import HospitalKey, Pseudonymiser, scanner
from evenhand.ingest.deid.dicom import quiet_pydicom
from evenhand.ingest.deid.planted import plant
from evenhand.ingest.deid.scanner import NOT_SEARCHED, Scanner, scan_tree

NAME = "Featherstonehaugh"


def call(*words, **options):
    """Run a command; return its exit code and all that it printed."""
    result = CliRunner().invoke(app, [str(word) for word in words], **options)
    error = result.exception
    if isinstance(error, EvenhandError):
        return error.exit_code, result.output + str(error)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, result.output


@pytest.fixture
def key(tmp_path):
    """A key file, always the same: one patient's shifted date could be another's true one."""
    path = tmp_path / "hospital.key"
    path.write_text("evenhand-deid-key 1\n" + "5a" * 32 + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def source(tmp_path):
    """A folder as hospitals have them: DICOM by name, NIfTI, a sidecar, a letter, a DICOMDIR."""
    folder = tmp_path / "source"
    for number in range(6):
        made = plant(number)
        path = folder / made.identifiers[-4] / made.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet_pydicom():
            made.dataset.save_as(path, enforce_file_format=True)
    anat = folder / f"sub-{NAME}" / "anat"
    anat.mkdir(parents=True)
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["descrip"] = NAME.encode()
    nib.save(image, anat / f"sub-{NAME}_T1w.nii.gz")
    (anat / f"sub-{NAME}_T1w.json").write_text(json.dumps({"EchoTime": 1, "PatientName": NAME}))
    (folder / f"letter to {NAME}.txt").write_text(NAME)
    (folder / f"{NAME}.dcm").write_bytes(bytes(128) + b"DICM" + NAME.encode())
    return folder


def identifiers():
    """Everything that the fixture planted."""
    return [NAME, *(text for number in range(6) for text in plant(number).identifiers)]


class TestDeidentify:
    """From a folder with names to one without."""

    def test_nothing_is_left_in_files_names_records_or_output(self, source, tmp_path, key, caplog):
        """The scanner finds the planted texts before, and none after, anywhere."""
        into = tmp_path / "clean"
        assert scan_tree(source, identifiers())
        code, printed = call("deidentify", source, "--into", into, "--key", key)
        assert code == 0
        assert scan_tree(into, identifiers()) == []
        assert Scanner(identifiers()).in_bytes((printed + caplog.text).encode()) == set()
        assert len(list(into.rglob("*.dcm"))) == 6
        assert "left out" in printed
        assert stat.S_IMODE(into.stat().st_mode) == 0o700
        assert str(key.read_text().split()[-1]) not in printed

    def test_evidence_names_profile_options_and_counts(self, source, tmp_path, key):
        """One record a case, with codes and counts, and no value."""
        into = tmp_path / "clean"
        call("deidentify", source, "--into", into, "--key", key)
        records = [json.loads(p.read_text()) for p in sorted((into / "evidence").glob("p*.json"))]
        assert len(records) == 6
        assert set(records[0]["codes"]) == {"113100", "113107", "113108", "113111"}
        assert records[0]["profile"] == "DICOM PS3.15 2026c, Table E.1-1"
        assert records[0]["dicom_attributes"]["removed"] > 20
        assert records[0]["key_fingerprint"] == HospitalKey.read(key).fingerprint
        assert all(record["files"] == {"DICOM": 1} for record in records)

    def test_the_same_command_again_writes_the_same_bytes(self, source, tmp_path, key):
        """After a stop one gives the command again."""
        into = tmp_path / "clean"
        call("deidentify", source, "--into", into, "--key", key)
        first = {path: path.read_bytes() for path in into.rglob("*") if path.is_file()}
        call("deidentify", source, "--into", into, "--key", key)
        assert {path: path.read_bytes() for path in into.rglob("*") if path.is_file()} == first

    def test_two_objects_of_one_uid_are_not_merged_in_silence(self, source, tmp_path, key):
        """The second is left out, and the output says so."""
        one = next(source.glob("*/*_HN*.dcm"))
        one.with_name("zcopy.dcm").write_bytes(one.read_bytes())
        code, printed = call("deidentify", source, "--into", tmp_path / "clean", "--key", key)
        assert code == 0
        assert "same name or UID" in " ".join(printed.split())

    def test_options_can_be_left_out(self, source, tmp_path, key):
        """`--option none` is the Basic Profile alone."""
        into = tmp_path / "clean"
        call("deidentify", source, "--into", into, "--key", key, "--option", "none")
        made = dcmread(next(into.rglob("*.dcm")))
        assert [c.CodeValue for c in made.DeidentificationMethodCodeSequence] == ["113100"]

    def test_what_cannot_work_is_refused(self, source, tmp_path, key):
        """Folders within each other, the key in the output, claims about faces, no key."""
        into = tmp_path / "clean"
        for words, reason in [
            ((source, "--into", source / "clean", "--key", key), "within each other"),
            (
                (source, "--into", tmp_path, "--key", key),
                "key lies in the folder|within each other",
            ),
            ((source, "--into", into, "--key", key, "--option", "clean-features"), "faces"),
            ((source, "--into", into, "--key", key, "--option", "all"), "no option"),
            ((source, "--into", into), "--new-key"),
            ((tmp_path / "none", "--into", into, "--key", key), "no such source"),
            ((), "SOURCE"),
        ]:
            code, printed = call("deidentify", *words)
            assert code == UsageError.exit_code, words
            assert any(part in printed for part in reason.split("|")), printed
        assert not into.exists()

    def test_unreadable_file_is_left_out(self, source, tmp_path, key, monkeypatch):
        """A source file that cannot be read is refused by number; all others are done."""
        unreadable = next(source.glob("*/anat/*.json"))
        plain = Path.open

        def guarded(self, *more, **options):
            if self == unreadable:
                raise PermissionError(errno.EACCES, "Permission denied")
            return plain(self, *more, **options)

        monkeypatch.setattr(Path, "open", guarded)
        into = tmp_path / "clean"
        code, printed = call("deidentify", source, "--into", into, "--key", key)
        assert code == 0, printed
        assert "It cannot be read (Permission denied)" in " ".join(printed.split())
        assert len(list((into / "evidence").glob("p*.json"))) >= 6

    def test_a_folder_with_nothing_to_clean_is_an_error(self, tmp_path, key):
        """Nobody goes on with an empty folder."""
        (tmp_path / "empty").mkdir()
        words = ("deidentify", tmp_path / "empty", "--into", tmp_path / "clean", "--key", key)
        assert call(*words)[0] == DataError.exit_code

    def test_new_key(self, tmp_path):
        """The key is made once; its secret is not printed."""
        path = tmp_path / "new.key"
        code, printed = call("deidentify", "--new-key", path)
        assert code == 0
        assert HospitalKey.read(path).fingerprint in printed
        assert path.read_text().split()[-1] not in printed
        assert call("deidentify", "--new-key", path)[0] == UsageError.exit_code


class TestCheck:
    """`--check` finds what is there, wherever it hides, and does not print it."""

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "latin-1", "cp1251", "iso2022_jp"])
    def test_encodings(self, tmp_path, encoding):
        """A name is found in the encodings that hospitals write."""
        name = {"cp1251": "Ковалевская", "iso2022_jp": "山下陽太郎"}.get(encoding, "Wüstenhagen")
        (tmp_path / "file").write_bytes(b"..." + name.encode(encoding) + b"...")
        assert [finding.identifier for finding in scan_tree(tmp_path, ["nobody", name])] == [2]

    def test_names_and_packed_files(self, tmp_path):
        """File names, gzip, and the parts of a DICOM name, in any case."""
        (tmp_path / f"{NAME}.txt").touch()
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "a.nii.gz")
        image = nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4))
        image.header["descrip"] = NAME.upper().encode()
        nib.save(image, tmp_path / "b.nii.gz")
        found = scan_tree(tmp_path, [f"{NAME}^Ann"])
        assert [(finding.path.name, finding.where) for finding in found] == [
            (f"{NAME}.txt", "name"),
            ("b.nii.gz", "content"),
        ]

    def test_picture_with_a_packed_text(self, tmp_path):
        """A letter x before the packed text of a PNG does not end the search."""
        text = b"XML:com.adobe.xmp\0\x01\0\0\0x" + zlib.compress(f"<p>{NAME}</p>".encode() * 9)
        png = b"\x89PNG\r\n\x1a\n" + len(text).to_bytes(4, "big") + b"iTXt" + text + bytes(4)
        (tmp_path / "a.png").write_bytes(png)
        assert [finding.identifier for finding in scan_tree(tmp_path, [NAME])] == [1]

    def test_cut_short(self, tmp_path):
        """A packed file without its end is searched as far as it goes, and is not called clean."""
        noise = np.random.default_rng(1).bytes(5000)
        (tmp_path / "a.gz").write_bytes(gzip.compress(NAME.encode() + noise)[:-20])
        (tmp_path / "b.gz").write_bytes(gzip.compress(noise) + gzip.compress(NAME.encode()))
        (tmp_path / "c.zip").write_bytes(b"PK\x03\x04" + noise)
        found = [(one.path.name, one.identifier) for one in scan_tree(tmp_path, [NAME])]
        assert found == [
            ("a.gz", 1),
            ("a.gz", NOT_SEARCHED),
            ("b.gz", 1),
            ("c.zip", NOT_SEARCHED),
        ]
        (tmp_path / "names").mkdir()
        (tmp_path / "names" / "list").write_text("Nobody Else\n")
        code, printed = call("deidentify", tmp_path, "--check", tmp_path / "names" / "list")
        assert code == DataError.exit_code
        assert "not searched to its end" in printed

    def test_too_large(self, tmp_path, monkeypatch):
        """A file that unpacks beyond the limit is reported, and the others are searched."""
        monkeypatch.setattr(scanner, "_UNPACKED_BYTES", 1000)
        (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(5000)))
        with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(5000))
        (tmp_path / "c.txt").write_text(NAME)
        found = [(one.path.name, one.identifier) for one in scan_tree(tmp_path, [NAME])]
        assert found == [("a.gz", NOT_SEARCHED), ("b.zip", NOT_SEARCHED), ("c.txt", 1)]

    def test_command(self, source, tmp_path):
        """The exit code says whether it is clean; the identifiers are not repeated."""
        names = tmp_path / "names.txt"
        names.write_text(f"{NAME}\n")
        code, printed = call("deidentify", source, "--check", names)
        assert code == DataError.exit_code
        assert NAME not in printed
        assert "its name holds line 1" in printed
        (tmp_path / "clean").mkdir()
        assert call("deidentify", tmp_path / "clean", "--check", names)[0] == 0
        names.write_text("\nab\n")
        assert call("deidentify", source, "--check", names)[0] == UsageError.exit_code


class TestForget:
    """One patient goes everywhere; everybody else stays."""

    @pytest.fixture
    def run(self, tmp_path, bids_tree):
        """The folder of a run with stores, embeddings, masks, a table and a split."""
        from evenhand.ingest.bids import ingest_bids

        run = tmp_path / "run"
        ingest_bids(bids_tree, run / "hospitals", layout="{hospital}/store")
        store = CaseStore(run / "hospitals" / "north" / "store")
        ids = store.case_ids()
        for hospital in ("north", "south"):
            folder = run / "hospitals" / hospital / "embeddings"
            folder.mkdir()
            (folder / "0123.npy").write_bytes(b"x" * 10)
            (folder.parent / "moments").mkdir()
            (folder.parent / "moments" / "federated-1.safetensors").write_bytes(b"learned")
        for kind in ("masks", "probabilities"):
            folder = run / "arms" / "pooled" / kind
            folder.mkdir(parents=True)
            for case_id in ids:
                (folder / f"{case_id}.nii.gz").write_bytes(b"voxels")
        (run / "config.json").write_text("{}")
        rows = [f"pooled,{case_id},0.5" for case_id in ids]
        (run / "predictions.csv").write_text("\n".join(["arm,case_id,dice", *rows]) + "\n")
        (run / "predictions.json").write_text(json.dumps({"sha256": "old"}))
        split = {"train": {"north": ids[:2]}, "test": {"north": ids[2:]}}
        (run / "splits.json").write_text(json.dumps(split))
        return run

    def test_everything_of_the_patient_goes_and_nothing_else(self, run, tmp_path):
        """Case, embeddings, masks, rows, split; the proof counts them and names nobody."""
        store = CaseStore(run / "hospitals" / "north" / "store")
        one, *others = list(store)
        name = one.patient.patient_id
        proof = tmp_path / "proof.json"
        code, printed = call("forget", name, "--run", run, "--proof", proof)
        assert code == 0, printed
        assert [case.case_id for case in store] == [case.case_id for case in others]
        assert all(store.volumes(case).images for case in others)
        assert not (run / "hospitals" / "north" / "embeddings").exists()
        assert not (run / "hospitals" / "north" / "moments").exists()
        assert (run / "hospitals" / "south" / "embeddings" / "0123.npy").exists()
        assert (run / "hospitals" / "south" / "moments").exists()
        for kind in ("masks", "probabilities"):
            assert len(list((run / "arms" / "pooled" / kind).iterdir())) == len(others)
        assert one.case_id not in (run / "predictions.csv").read_text()
        assert one.case_id not in (run / "splits.json").read_text()
        assert json.loads((run / "predictions.json").read_text())["sha256"] != "old"
        record = json.loads(proof.read_text())
        assert sum(place["cases"] for place in record["places"]) == 1
        assert record["still_mentioned_in"] == []
        assert name not in proof.read_text()

    def test_a_store_that_the_run_only_links_to_forgets_too(self, run, tmp_path):
        """With `data.stores` the cases lie outside of the run: they go as well, counted once."""
        home = run / "hospitals" / "north"
        outside = shutil.move(home / "store", tmp_path / "outside")
        (home / "store").symlink_to(outside, target_is_directory=True)
        one = next(iter(CaseStore(outside)))
        proof = tmp_path / "proof.json"
        words = ("forget", one.case_id, "--run", run, "--store", outside, "--proof", proof)
        code, printed = call(*words)
        assert code == 0, printed
        assert printed.startswith("1 case(s)")
        assert one.case_id not in CaseStore(outside)
        assert not (home / "embeddings").exists()
        (Path(outside) / "notes.txt").write_text(one.case_id)
        code, printed = call("forget", one.case_id, "--run", run, "--proof", proof)
        assert code == DataError.exit_code
        assert "still mentioned" in printed

    def test_a_federations_node_forgets_too(self, run, tmp_path):
        """Split, embeddings and moments of the studies that name the patient, and of no other."""
        store = CaseStore(run / "hospitals" / "north" / "store")
        one, other = (case.patient.patient_id for case in list(store)[:2])
        for digest, names in (("aa", [one, other]), ("bb", [other])):
            study = tmp_path / "node" / "studies" / digest
            for folder in ("embeddings", "moments"):
                (study / "north" / folder).mkdir(parents=True)
                (study / "north" / folder / "file").write_bytes(b"x")
            (study / "splits.json").write_text(json.dumps({"train": {"north": names}}))
        proof, node = tmp_path / "proof.json", tmp_path / "node"
        words = ("forget", one, "--store", store.path, "--node", node, "--proof", proof)
        code, printed = call(*words)
        assert code == 0, printed
        split = json.loads((node / "studies" / "aa" / "splits.json").read_text())
        assert split == {"train": {"north": [other]}}
        left = {str(path.relative_to(node / "studies")) for path in node.rglob("file")}
        assert left == {"bb/north/embeddings/file", "bb/north/moments/file"}
        record = json.loads(proof.read_text())
        assert any(place["place"].endswith("aa/splits.json") for place in record["places"])
        assert call("forget", one, "--node", tmp_path, "--proof", proof)[0] == UsageError.exit_code

    @pytest.mark.parametrize("failing", ["embeddings", "masks", "predictions.csv", "cases"])
    def test_a_deletion_that_was_cut_off_is_given_again(self, run, tmp_path, monkeypatch, failing):
        """Wherever the disk refuses, the same command finishes, and nothing is lost from sight."""
        store = CaseStore(run / "hospitals" / "north" / "store")
        one = next(iter(store))
        words = ("forget", one.patient.patient_id, "--run", run, "--proof", tmp_path / "p.json")
        whole = {"unlink": Path.unlink, "replace": Path.replace, "rmtree": shutil.rmtree}

        def refusing(name):
            def call_it(path, *args, **kwargs):
                hidden = failing == "cases" and ".gone-" in str(path)
                if hidden or (failing != "cases" and failing in str(path)):
                    raise OSError(errno.EIO, "Input/output error", str(path))
                return whole[name](path, *args, **kwargs)

            return call_it

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refusing("unlink"))
            patch.setattr(Path, "replace", refusing("replace"))
            patch.setattr(shutil, "rmtree", refusing("rmtree"))
            code, printed = call(*words)
            assert code == ResourceError.exit_code
            assert "give the same command again" in printed
        assert not (tmp_path / "p.json").exists()
        code, printed = call(*words)
        assert code == 0, printed
        assert json.loads((tmp_path / "p.json").read_text())["still_mentioned_in"] == []
        assert not (run / "hospitals" / "north" / "embeddings").exists()
        assert not (run / "arms" / "pooled" / "masks" / f"{one.case_id}.nii.gz").exists()
        assert mentions(run, {one.case_id, one.patient.patient_id}) == []
        assert list((store.path / "cases").glob(".*")) == []

    def test_a_case_that_was_being_replaced_goes_too(self, run, tmp_path):
        """A writer that was killed between two renames left `.old-CASE`: it does not come back."""
        store = CaseStore(run / "hospitals" / "north" / "store")
        one = next(iter(store))
        cases = store.path / "cases"
        (cases / one.case_id).rename(cases / f".old-{one.case_id}")
        words = ("forget", one.patient.patient_id, "--run", run, "--proof", tmp_path / "p.json")
        code, printed = call(*words)
        assert code == 0, printed
        assert printed.startswith("1 case(s)")
        with store.locked():
            assert one.case_id not in store.case_ids()
        assert not (run / "hospitals" / "north" / "embeddings").exists()

    def test_a_store_in_use_is_not_touched(self, run, tmp_path):
        """While another command writes nothing is deleted: it could bring the case back."""
        store = CaseStore(run / "hospitals" / "north" / "store")
        one = next(iter(store))
        words = ("forget", one.patient.patient_id, "--run", run, "--proof", tmp_path / "p.json")
        with store.locked():
            assert call(*words)[0] == StoreError.exit_code
        assert (run / "hospitals" / "north" / "embeddings").exists()
        assert not (tmp_path / "p.json").exists()

    def test_a_file_that_still_mentions_the_patient_is_reported(self, run, tmp_path):
        """A deletion that is not whole does not look like one."""
        name = next(iter(CaseStore(run / "hospitals" / "north" / "store"))).patient.patient_id
        (run / "notes.txt").write_text(f"look at {name}")
        code, printed = call("forget", name, "--run", run, "--proof", tmp_path / "proof.json")
        assert code == DataError.exit_code
        assert "notes.txt" in printed

    def test_nobody_is_not_deleted(self, run, tmp_path):
        """A misspelt pseudonym is an error, and no proof is written."""
        proof = tmp_path / "proof.json"
        assert call("forget", "nobody", "--run", run, "--proof", proof)[0] == DataError.exit_code
        assert call("forget", "nobody", "--proof", proof)[0] == UsageError.exit_code
        assert call("forget", "nobody", "--run", tmp_path, "--proof", proof)[0] == 2
        assert not proof.exists()

    def test_the_identifier_is_asked_for_and_not_shown(self, run, tmp_path, key):
        """With the key a hospital needs no pseudonym; the identifier is not echoed."""
        words = ("forget", "--key", key, "--run", run, "--proof", tmp_path / "proof.json")
        code, printed = call(*words, input="HN12345\n")
        assert code == DataError.exit_code
        assert "HN12345" not in printed
        assert Pseudonymiser(HospitalKey.read(key)).pseudonym("HN12345") not in printed
