"""What stands beside images (headers, sidecars, names) loses identities; pixels stay to the bit."""

import gzip
import io
import json
from pathlib import PurePath

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evenhand.errors import DataError
from evenhand.ingest.deid import HospitalKey, Pseudonymiser
from evenhand.ingest.deid.naming import clean_path, patient_of, rename_subject
from evenhand.ingest.deid.nifti import clean_nifti
from evenhand.ingest.deid.pictures import clean_jpeg, clean_png
from evenhand.ingest.deid.sidecars import clean_participants, clean_sidecar

NAMES = Pseudonymiser(HospitalKey(bytes(range(32))))
NAME = "Featherstonehaugh"
PIXELS = (np.arange(48 * 40) % 251).astype(np.uint8).reshape(48, 40)


def nifti(kind=nib.Nifti1Image, big_endian=False):
    """A volume whose header holds a name wherever it can, with an extension and scaling."""
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(np.int16)
    image = kind(voxels, np.diag([2.0, 2, 3, 1]), header=header)
    image.header["descrip"] = NAME.encode()
    image.header["aux_file"] = NAME.encode()
    image.header["intent_name"] = NAME[:15].encode()
    if kind is nib.Nifti1Image:
        image.header["db_name"] = NAME[:17].encode()
        image.header["data_type"] = NAME[:9].encode()
    image.header.set_slope_inter(2.0, 5.0)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    return image.to_bytes()


class TestNifti:
    """Header texts and extensions go; voxels, scaling and geometry stay."""

    @pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
    @pytest.mark.parametrize("big_endian", [False, True])
    @pytest.mark.parametrize("packed", [False, True])
    def test_texts_go_and_the_image_stays(self, kind, big_endian, packed):
        """Both versions, both byte orders, with and without gzip, with text after the voxels."""
        before = nifti(kind, big_endian)
        content = before + NAME.encode()
        cleaned = clean_nifti(gzip.compress(content) if packed else content)
        plain = gzip.decompress(cleaned) if packed else cleaned
        assert NAME[:6].encode() not in plain
        old, new = kind.from_bytes(before), kind.from_bytes(plain)
        assert np.array_equal(np.asarray(old.dataobj), np.asarray(new.dataobj))
        assert np.array_equal(old.affine, new.affine)
        assert old.header["xyzt_units"] == new.header["xyzt_units"]
        assert not new.header.extensions

    def test_gzip_keeps_no_name_and_no_time(self):
        """Gzip writes the original file's name into its header."""
        out = io.BytesIO()
        with gzip.GzipFile(f"{NAME}.nii", "wb", fileobj=out) as file:
            file.write(nifti())
        assert NAME.encode() in out.getvalue()
        assert NAME.encode() not in clean_nifti(out.getvalue())

    @given(st.integers(0, 400))
    def test_what_ends_too_early_is_refused(self, length):
        """No half volume is passed on, and no other error comes out."""
        with pytest.raises(DataError):
            clean_nifti(nifti()[:length])

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8bxx", b"x" * 400, nifti()[:-1]])
    def test_what_is_no_nifti_is_refused(self, content):
        """Anything else is named, not guessed at."""
        with pytest.raises(DataError):
            clean_nifti(content)


def png(mode="L"):
    """A picture with texts of three kinds and EXIF."""
    info = PngInfo()
    info.add_text("Author", NAME)
    info.add_text("Comment", NAME, zip=True)
    info.add_itxt("Title", NAME)
    exif = Image.Exif()
    exif[0x010E] = NAME
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, "PNG", pnginfo=info, exif=exif, dpi=(72, 72))
    return out.getvalue()


def jpeg(mode="RGB", **options):
    """A picture with a comment and EXIF."""
    exif = Image.Exif()
    exif[0x010E] = NAME
    out = io.BytesIO()
    picture = Image.fromarray(PIXELS).convert(mode)
    picture.save(out, "JPEG", exif=exif, comment=NAME.encode(), **options)
    return out.getvalue()


class TestPictures:
    """Text chunks, EXIF and comments go; pixels stay."""

    @pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "1"])
    def test_png(self, mode):
        """Each colour mode decodes to the same pixels, and nothing else is there."""
        before, after = png(mode) + NAME.encode(), clean_png(png(mode) + NAME.encode())
        assert NAME.encode() not in after
        with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
            assert np.array_equal(np.asarray(old), np.asarray(new))
            assert set(new.info) <= {"dpi", "transparency"}

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg(self, mode, progressive):
        """Baseline and progressive; the decoded pixels are equal, Adobe's colour mark included."""
        before = jpeg(mode, progressive=progressive)
        after = clean_jpeg(before + NAME.encode())
        assert NAME.encode() in before
        assert NAME.encode() not in after
        with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
            assert np.array_equal(np.asarray(old), np.asarray(new))
            assert not new.getexif()
            assert "comment" not in new.info

    @pytest.mark.parametrize("clean", [clean_png, clean_jpeg])
    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a" * 9])
    def test_what_is_no_picture_is_refused(self, clean, content):
        """Neither an empty file nor another kind passes."""
        with pytest.raises(DataError):
            clean(content)

    def test_a_damaged_png_is_refused(self):
        """A chunk whose checksum is wrong is not passed on."""
        content = bytearray(png())
        content[40] ^= 1
        with pytest.raises(DataError, match="damaged"):
            clean_png(bytes(content))


class TestSidecars:
    """Only what is listed stays."""

    def test_planted_sidecar(self):
        """Identifying, unknown and nested keys go; so do texts where numbers belong."""
        raw = {
            "PatientName": NAME,
            "PatientID": "HN1",
            "AcquisitionTime": "10:11:12",
            "InstitutionName": NAME,
            "DeviceSerialNumber": "7",
            "SeriesDescription": NAME,
            "EchoTime": 0.03,
            "SliceTiming": [0, 0.5],
            "RepetitionTime": NAME,
            "Modality": "MR",
            "ImageType": ["ORIGINAL", "PRIMARY"],
            "BodyPartExamined": {"a": 1},
            "global": {"const": {"PatientName": NAME}},
        }
        cleaned, gone = clean_sidecar(json.dumps(raw).encode())
        assert json.loads(cleaned) == {
            "EchoTime": 0.03,
            "SliceTiming": [0, 0.5],
            "Modality": "MR",
            "ImageType": ["ORIGINAL", "PRIMARY"],
        }
        assert gone == 9

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
    def test_what_is_no_object_is_refused(self, content):
        """Lists, damage and abuse."""
        with pytest.raises(DataError):
            clean_sidecar(content)

    def test_participants(self):
        """Patients are renamed and reordered; unlisted columns go; ages are capped."""
        table = (
            "participant_id\tsex\tage\tname\tsite\n"
            f"sub-001\tF\t93\t{NAME}\tnorth\nsub-002\tM\tborn 1950!\t{NAME}\tn/a\n"
        )
        cleaned, gone = clean_participants(table.encode(), lambda x: rename_subject(x, NAMES))
        lines = cleaned.decode().splitlines()
        first, second = (rename_subject(label, NAMES) for label in ("001", "002"))
        assert gone == 1
        assert lines[0] == "participant_id\tsex\tage\tsite"
        assert lines[1:] == sorted([f"{first}\tF\t90\tnorth", f"{second}\tM\tn/a\tn/a"])

    @pytest.mark.parametrize("content", [b"", b"a\tb\n1\t2\n", b"\xff\xfe", b"participant_id\n"])
    def test_other_tables_are_refused(self, content):
        """A table that names no participants cannot be cleaned."""
        with pytest.raises(DataError):
            clean_participants(content, str)


class TestNames:
    """A path tells nothing, and still says what the file is."""

    def test_bids(self):
        """The subject becomes the pseudonym everywhere, known words stay, others do not."""
        path = PurePath("sub-HN123/ses-20200101/anat/sub-HN123_ses-20200101_ce-gd_run-2_T1w.nii.gz")
        cleaned = clean_path(path, NAMES).as_posix()
        subject, session = (
            f"sub-{NAMES.pseudonym('HN123')}",
            f"ses-{NAMES.token('session', '20200101')}",
        )
        assert cleaned == f"{subject}/{session}/anat/{subject}_{session}_ce-gd_run-2_T1w.nii.gz"
        assert patient_of(path) == "HN123"

    @pytest.mark.parametrize(
        "path",
        [f"{NAME}/scan.nii.gz", f"a/{NAME}.png", f"sub-{NAME}_acq-{NAME}_T1w.json", f"x.{NAME}"],
    )
    def test_a_name_is_nowhere(self, path):
        """Folders, stems, values and endings."""
        assert NAME.lower() not in clean_path(PurePath(path), NAMES).as_posix().lower()

    @given(st.sets(st.text("ab1_-./ é", min_size=1, max_size=12), min_size=2, max_size=4))
    def test_different_stay_different(self, texts):
        """Two files never become one."""
        paths = {PurePath(text.strip("./ ") or "a") for text in texts}
        paths = {path for path in paths if not {".", ".."} & set(path.parts)}
        assert len({clean_path(path, NAMES) for path in paths}) == len(paths)
