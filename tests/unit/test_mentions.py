"""Which files still mention a patient who was to be forgotten."""

from evenhand.cases import erase
from evenhand.cases.erase import mentions


def test_a_folder_that_names_the_patient_is_a_mention(tmp_path):
    """Its files need not hold the name themselves; what is above the root does not count."""
    root = tmp_path / "p-one"
    (root / "kept" / "p-one" / "deep").mkdir(parents=True)
    (root / "kept" / "p-one" / "deep" / "image").write_bytes(b"x")
    (root / "other").write_bytes(b"x")
    assert mentions(root, {"p-one"}) == [root / "kept" / "p-one" / "deep" / "image"]


def test_a_name_across_two_pieces_is_a_mention(tmp_path, monkeypatch):
    """Files are read piece by piece; where a piece ends must not hide a name."""
    monkeypatch.setattr(erase, "_PIECE", 8)
    for number in range(10):
        (tmp_path / f"{number}").write_bytes(b"." * number + b"p-one")
    (tmp_path / "other").write_bytes(b"p-on" + b"." * 8 + b"e")
    assert mentions(tmp_path, {"p-one"}) == sorted(tmp_path.glob("[0-9]"))
    assert mentions(tmp_path / "3", {"p-one"}) == [tmp_path / "3"]


def test_what_cannot_be_read_counts(tmp_path, monkeypatch):
    """Nobody knows that such a file does not mention the patient; the proof is written."""
    (tmp_path / "locked").write_bytes(b"x")

    def refused(path, needles):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(erase, "_holds", refused)
    assert mentions(tmp_path, {"p-one"}) == [tmp_path / "locked"]
