"""Rules of the door: what identifies somebody stays outside, whichever way a case comes in."""

import re
from pathlib import Path

import pytest
from dicom_reading import KEY, NAMES, grid, voxels
from typer.testing import CliRunner

from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.ingest.bids import ingest_bids, plan_bids
from evenhand.ingest.deid.dicom import quiet_pydicom
from evenhand.ingest.deid.planted import STRIPES, plant
from evenhand.ingest.deid.scanner import Scanner
from evenhand.ingest.dicom.phantom import Study, write_series
from evenhand.ingest.people import People, person
from evenhand.ingest.workers import cores

NOBODY = "Aardvark"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The key of `NAMES`, as a file."""
    path = tmp_path / "hospital.key"
    path.write_text(f"evenhand-deid-key 1\n{KEY.secret.hex()}\n", encoding="ascii")
    path.chmod(0o600)
    return path


def run(*words: object) -> str:
    """Run a command that must succeed; return all that it printed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_cleaned_files_keep_their_pseudonym(tmp_path: Path, key: Path) -> None:
    """De-identified and then taken in, a patient has the same name and date as taken in at once."""
    source = tmp_path / "in"
    write_series(source, voxels(), grid(), Study(patient_id=NOBODY), modality="CT")
    run("deidentify", source, "--into", tmp_path / "clean", "--key", key)
    wanted = ("--hospital", "north", "--key", key, "--no-masks-required", "--jobs", 1)
    for name in ("in", "clean"):
        run("ingest", tmp_path / name, "--into", tmp_path / f"store-{name}", *wanted)
    raw, cleaned = (
        next(iter(CaseStore(tmp_path / f"store-{name}" / "north"))) for name in ("in", "clean")
    )
    assert raw.patient == cleaned.patient
    assert raw.patient.patient_id == NAMES.pseudonym(NOBODY)
    assert raw.acquisition["study_date_shifted"] == cleaned.acquisition["study_date_shifted"]
    assert raw.sequences == cleaned.sequences


def test_another_key_does_not_believe_the_mark(tmp_path: Path, key: Path) -> None:
    """A pseudonym of elsewhere is an identifier like any other: it gets a pseudonym here."""
    write_series(tmp_path / "in", voxels(), grid(), Study(patient_id=NOBODY), modality="CT")
    run("deidentify", "--new-key", tmp_path / "other.key")
    run("deidentify", tmp_path / "in", "--into", tmp_path / "c", "--key", tmp_path / "other.key")
    wanted = ("--hospital", "north", "--key", key, "--no-masks-required", "--jobs", 1)
    run("ingest", tmp_path / "c", "--into", tmp_path / "s", *wanted)
    foreign = next((tmp_path / "c").glob("p*")).name
    (case,) = CaseStore(tmp_path / "s" / "north")
    assert case.patient.patient_id == NAMES.pseudonym(foreign)


def test_planted_identifiers_do_not_reach_store_or_output(tmp_path: Path, key: Path) -> None:
    """Names, numbers, dates, UIDs and free text of raw DICOM: none in files, names or print.

    `benchmarks/deidentify.py` does this with 5,000 objects.
    """
    planted = [plant(number) for number in range(STRIPES)]
    for made in planted:
        path = tmp_path / "in" / made.identifiers[-4] / made.file_name
        path.parent.mkdir(parents=True)
        with quiet_pydicom():
            made.dataset.save_as(path, enforce_file_format=True)
    printed = run(
        *("ingest", tmp_path / "in", "--into", tmp_path / "s", "--hospital", "north"),
        *("--key", key, "--no-masks-required", "--jobs", min(cores(), 2)),
    )
    printed += run("cases", tmp_path / "s" / "north")
    store = CaseStore(tmp_path / "s" / "north")
    assert len(store) == STRIPES
    for case in store:
        printed += run("cases", store.path, case.case_id)
    # Digits may stand in others' checksums by chance: each case is searched for its own.
    by_name = {NAMES.pseudonym(made.identifiers[-4]): made for made in planted}
    for case in store:
        own = by_name[case.patient.patient_id].identifiers
        dates = [f"{t[:4]}-{t[4:6]}-{t[6:]}" for t in own if t.isdigit() and t.startswith("20")]
        scanner = Scanner([*own, *dates])
        for path in (store.path / "cases" / case.case_id).iterdir():
            assert list(scanner.in_file(path, tmp_path)) == []
    scanner = Scanner([t for made in planted for t in made.identifiers if not t.isdigit()])
    assert scanner.in_bytes(printed.encode()) == set()
    for path in (tmp_path / "s").rglob("*"):
        if path.is_file():
            assert list(scanner.in_file(path, tmp_path / "s")) == []
    assert scanner.in_bytes(planted[0].file_name.encode())  # and would be found


def test_a_keyed_bids_tree_leaves_its_names_behind(bids_tree: Path, tmp_path: Path) -> None:
    """Ids, unknown columns and great ages stay in the tree; problems name lines of the table."""
    table = bids_tree / "participants.tsv"
    head, *rows = table.read_text(encoding="utf-8").splitlines()
    at = head.split("\t").index("age")
    cells = rows[0].split("\t")
    cells[at] = "97"
    rows[0] = "\t".join(cells)
    text = "\n".join([f"{head}\tremark", *(f"{row}\t{NOBODY}" for row in rows)])
    table.write_text(text + "\n", encoding="utf-8")
    ingest_bids(bids_tree, tmp_path / "s", names=NAMES)
    ids = [row.split("\t")[0].removeprefix("sub-") for row in rows]
    scanner = Scanner([NOBODY, *ids])
    for path in (tmp_path / "s").rglob("*"):
        if path.is_file():
            assert list(scanner.in_file(path, tmp_path / "s")) == []
    cases = [case for name in ("north", "south") for case in CaseStore(tmp_path / "s" / name)]
    assert {case.patient.patient_id for case in cases} == {NAMES.pseudonym(each) for each in ids}
    assert max(case.patient.age_years or 0 for case in cases) == 90
    evidence = CaseStore(tmp_path / "s" / "north").evidence(cases[0])
    assert evidence is not None
    assert evidence["key"] == NAMES.key_fingerprint
    assert ingest_bids(bids_tree, tmp_path / "s", names=NAMES).written == 0
    (bids_tree / f"sub-{ids[0]}" / "anat" / f"sub-{ids[0]}_FLAIR.nii.gz").write_bytes(b"broken")
    (finding,) = plan_bids(bids_tree, tmp_path / "t", names=NAMES).findings
    assert ids[0] not in finding
    assert re.search(r"line \d+ of the table", finding)


def test_ages_of_tables_end_at_90_under_a_key() -> None:
    """The rule for old people holds for tables of any kind."""
    keyed = People(hospital="north", names=NAMES)
    _, old = person(keyed, case="a", patient="b", row={"age": "97"}, label="row 1")
    assert old.age_years == 90
