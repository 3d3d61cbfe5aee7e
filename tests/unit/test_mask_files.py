"""Masks as they come: NIfTI, PNG and DICOM SEG on one grid, or refused in a sentence."""

import datetime as dt

import numpy as np
import pytest
from PIL import Image

from evenhand.cases.nifti import write_nifti
from evenhand.errors import DataError, UsageError
from evenhand.geometry import Affine
from evenhand.ingest.mask_dicom import check_keywords, read_header
from evenhand.ingest.mask_files import ONE_LABEL, on_one_grid, read_masks, read_probability

ROWS, COLUMNS, SLICES = 10, 12, 6
SPACING_MM, THICKNESS_MM = 0.5, 3.0
ORIGIN_LPS = (-20.0, -30.0, 40.0)


def mri():
    """A synthetic MR series: one dataset a slice, transverse, from feet to head."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    study, series, frame = (generate_uid(entropy_srcs=[text]) for text in ("a", "b", "c"))
    slices = []
    for index in range(SLICES):
        one = pydicom.Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = MRImageStorage
        uid = generate_uid(entropy_srcs=[f"slice {index}"])
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.PatientID, one.PatientName, one.PatientBirthDate = "P1", "Phantom^", ""
        one.PatientSex, one.PatientAge, one.ManufacturerModelName = "F", "061Y", "Phantom 3T"
        one.StudyID, one.AccessionNumber, one.ReferringPhysicianName = "1", "", ""
        one.StudyDate = one.SeriesDate = one.ContentDate = "20260102"
        one.StudyTime = one.SeriesTime = one.ContentTime = "120000"
        one.Modality, one.SeriesNumber, one.InstanceNumber = "MR", 1, index + 1
        one.Manufacturer, one.PositionReferenceIndicator = "nobody", ""
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        x, y, z = ORIGIN_LPS
        one.ImagePositionPatient = [x, y, z + index * THICKNESS_MM]
        one.PixelSpacing, one.SliceThickness = [SPACING_MM, SPACING_MM], THICKNESS_MM
        one.Rows, one.Columns, one.SamplesPerPixel = ROWS, COLUMNS, 1
        one.PhotometricInterpretation, one.PixelRepresentation = "MONOCHROME2", 0
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit = 15
        one.PixelData = np.zeros((ROWS, COLUMNS), np.uint16).tobytes()
        slices.append(one)
    return slices


def write_seg(path, masks):
    """A DICOM SEG with one segment for each mask (slice, row, column); empty slices left out."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"tumour {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, len(masks) + 1)
    ]
    hd.seg.Segmentation(
        source_images=mri(),
        pixel_array=np.stack(masks, axis=-1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="nobody",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
        omit_empty_frames=True,
        content_date=dt.date(2026, 1, 2),
    ).save_as(path)
    return path


def seg_mask(slices=(2, 3)):
    """A mask without symmetry (slice, row, column)."""
    mask = np.zeros((SLICES, ROWS, COLUMNS), dtype=bool)
    for number in slices:
        mask[number, 1 : 3 + number, 4:9] = True
    return mask


def nifti_of(mask):
    """The same mask as NIfTI would hold it: (i, j, k) along RAS, and its affine."""
    x, y, z = ORIGIN_LPS
    affine = np.diag([-SPACING_MM, -SPACING_MM, THICKNESS_MM, 1.0])
    affine[:3, 3] = (-x, -y, z)
    return mask.transpose(2, 1, 0).astype(np.uint8), Affine(affine)


class TestNifti:
    """NIfTI masks must lie on one grid."""

    def test_labels_are_unions_of_values(self, tmp_path):
        """A label may be several values; a value that is nobody's is background."""
        values = np.zeros((4, 4, 4), dtype=np.int16)
        values[0, 0, 0], values[1, 1, 1], values[2, 2, 2] = 1, 2, 4
        write_nifti(tmp_path / "m.nii.gz", values, Affine(np.eye(4)))
        found = read_masks(tmp_path / "m.nii.gz", {"whole": [1, 2, 4], "core": [1, 4]}, name="m")
        assert {label: int(mask.sum()) for label, mask in found.masks.items()} == {
            "whole": 3,
            "core": 2,
        }

    def test_one_label_needs_no_name_whatever_its_value(self, tmp_path):
        """A mask of 0 and 255 is a mask; a second value has to be explained."""
        values = np.zeros((3, 3, 3), dtype=np.uint8)
        values[1] = 255
        write_nifti(tmp_path / "m.nii.gz", values, Affine(np.eye(4)))
        assert read_masks(tmp_path / "m.nii.gz", {}, name="m").masks[ONE_LABEL].sum() == 9
        values[0] = 1
        write_nifti(tmp_path / "m.nii.gz", values, Affine(np.eye(4)))
        with pytest.raises(DataError, match=r"several labels.*masks\.labels"):
            read_masks(tmp_path / "m.nii.gz", {}, name="m")

    def test_probabilities_are_no_mask(self, tmp_path):
        """Fractions are refused where a mask was wanted, and read where they were."""
        write_nifti(tmp_path / "m.nii.gz", np.full((2, 2, 2), 0.5, np.float32), Affine(np.eye(4)))
        with pytest.raises(DataError, match="no whole numbers"):
            read_masks(tmp_path / "m.nii.gz", {}, name="m")
        assert read_probability(tmp_path / "m.nii.gz", name="m")[0].max() == 0.5

    @pytest.mark.parametrize(
        ("shape", "affine", "said"),
        [
            ((4, 4, 5), np.eye(4), "shape"),
            ((4, 4, 4), np.diag([1, 1, 2, 1.0]), "another affine"),
            ((4, 4, 4), np.diag([-1, 1, 1, 1.0]), "another affine"),
        ],
    )
    def test_unequal_geometry_is_refused(self, tmp_path, shape, affine, said):
        """Other shape, spacing or direction: never silently compared voxel by voxel."""
        write_nifti(tmp_path / "a.nii.gz", np.ones((4, 4, 4), np.uint8), Affine(np.eye(4)))
        write_nifti(tmp_path / "b.nii.gz", np.ones(shape, np.uint8), Affine(affine))
        masks = [read_masks(tmp_path / f"{name}.nii.gz", {}, name=name) for name in "ab"]
        with pytest.raises(DataError, match=f"'b' has {said}.*Resample"):
            on_one_grid(*masks, names=("a", "b"))


class TestPng:
    """Pictures are planes without a place in space."""

    def test_grey_two_tone_and_grey_in_colour_are_masks(self, tmp_path):
        """However a picture was saved, white is inside."""
        pixels = np.zeros((5, 7), np.uint8)
        pixels[1:3, 2:5] = 255
        Image.fromarray(pixels).save(tmp_path / "grey.png")
        Image.fromarray(pixels).convert("1").save(tmp_path / "two.png")
        Image.fromarray(pixels).convert("RGB").save(tmp_path / "colour.png")
        for name in ("grey", "two", "colour"):
            found = read_masks(tmp_path / f"{name}.png", {}, name=name)
            assert np.array_equal(found.masks[ONE_LABEL], pixels > 0)
            assert found.affine is None
        assert read_probability(tmp_path / "grey.png", name="grey")[0].max() == 1.0

    def test_colour_and_damage_are_refused(self, tmp_path):
        """A photograph is no mask, and half a file is no picture."""
        Image.fromarray(np.random.default_rng(0).integers(0, 9, (5, 5, 3), np.uint8)).save(
            tmp_path / "photo.png"
        )
        with pytest.raises(DataError, match="in colour"):
            read_masks(tmp_path / "photo.png", {}, name="photo")
        whole = (tmp_path / "photo.png").read_bytes()
        (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="damaged"):
            read_masks(tmp_path / "half.png", {}, name="half")

    def test_a_picture_and_a_volume_have_no_common_grid(self, tmp_path):
        """Nor would anybody know which slice the picture is."""
        Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / "a.png")
        write_nifti(tmp_path / "b.nii.gz", np.ones((4, 4, 1), np.uint8), Affine(np.eye(4)))
        a, b = (read_masks(tmp_path / n, {}, name=n) for n in ("a.png", "b.nii.gz"))
        with pytest.raises(DataError, match="no common grid"):
            on_one_grid(a, b, names=("a", "b"))


class TestDicomSeg:
    """A SEG is laid onto the reference's grid, its left-out slices put back."""

    def test_a_seg_and_a_nifti_of_one_mask_coincide(self, tmp_path):
        """The same voxels in both, though axes run otherwise and empty slices are not stored."""
        mask = seg_mask()
        seg = read_masks(write_seg(tmp_path / "m.dcm", [mask]), {}, name="seg")
        assert seg.sparse
        voxels, affine = nifti_of(mask)
        write_nifti(tmp_path / "m.nii.gz", voxels, affine)
        nifti = read_masks(tmp_path / "m.nii.gz", {}, name="nifti")
        for pair in ((nifti, seg), (seg, nifti)):
            first, second = on_one_grid(*pair, names=("a", "b"))
            assert first.masks[ONE_LABEL].shape == voxels.shape
            assert np.array_equal(first.masks[ONE_LABEL], second.masks[ONE_LABEL])
            assert first.masks[ONE_LABEL].sum() == mask.sum()

    def test_two_segs_with_other_slices_meet_on_their_union(self, tmp_path):
        """Neither file knows the whole volume; together they keep every voxel in its place."""
        masks = [seg_mask((1, 2)), seg_mask((2, 4))]
        paths = [write_seg(tmp_path / f"{n}.dcm", [mask]) for n, mask in enumerate(masks)]
        found = [read_masks(path, {}, name=path.name) for path in paths]
        first, second = on_one_grid(*found, names=("a", "b"))
        a, b = first.masks[ONE_LABEL], second.masks[ONE_LABEL]
        assert a.shape == b.shape
        assert (a.sum(), b.sum()) == (masks[0].sum(), masks[1].sum())
        assert (a & b).sum() == (masks[0] & masks[1]).sum()

    def test_segments_are_chosen_by_number(self, tmp_path):
        """Labels are unions of segments; a number that is not there is named."""
        path = write_seg(tmp_path / "m.dcm", [seg_mask((1,)), seg_mask((4,))])
        found = read_masks(path, {"both": [1, 2], "second": [2]}, name="m")
        assert found.masks["both"].sum() == seg_mask((1, 4)).sum()
        assert found.masks["second"].sum() == seg_mask((4,)).sum()
        with pytest.raises(DataError, match=r"2 segments.*masks\.labels"):
            read_masks(path, {}, name="m")
        with pytest.raises(DataError, match="has the segments 1, 2, not 7"):
            read_masks(path, {"a": [7]}, name="m")

    def test_a_seg_of_another_grid_is_refused(self, tmp_path):
        """Voxels that do not coincide are not rounded to the nearest."""
        seg = read_masks(write_seg(tmp_path / "m.dcm", [seg_mask()]), {}, name="seg")
        voxels, affine = nifti_of(seg_mask())
        moved = affine.ras_from_voxel.copy()
        moved[0, 3] += 0.4 * SPACING_MM
        write_nifti(tmp_path / "m.nii.gz", voxels, Affine(moved))
        nifti = read_masks(tmp_path / "m.nii.gz", {}, name="nifti")
        with pytest.raises(DataError, match="do not coincide"):
            on_one_grid(nifti, seg, names=("nifti", "seg"))

    def test_a_seg_that_reaches_out_of_the_reference_is_refused(self, tmp_path):
        """Tumour outside the volume means another series."""
        seg = read_masks(write_seg(tmp_path / "m.dcm", [seg_mask((0, 5))]), {}, name="seg")
        voxels, affine = nifti_of(seg_mask())
        write_nifti(tmp_path / "m.nii.gz", voxels[..., :4], affine)
        nifti = read_masks(tmp_path / "m.nii.gz", {}, name="nifti")
        with pytest.raises(DataError, match="outside the volume"):
            on_one_grid(nifti, seg, names=("nifti", "seg"))

    @pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 128 + b"DICM" + b"rubbish"])
    def test_what_is_no_seg_is_refused(self, tmp_path, content):
        """Rubbish with the right ending gets a sentence, not a traceback."""
        (tmp_path / "m.dcm").write_bytes(content)
        with pytest.raises(DataError, match="no DICOM SEG"):
            read_masks(tmp_path / "m.dcm", {}, name="m")

    def test_an_image_is_no_seg(self, tmp_path):
        """An MR slice is DICOM, and no segmentation."""
        mri()[0].save_as(tmp_path / "m.dcm", enforce_file_format=True)
        with pytest.raises(DataError, match="no DICOM SEG"):
            read_masks(tmp_path / "m.dcm", {}, name="m")


class TestHeaders:
    """Attributes from DICOM headers."""

    def test_a_folder_tells_sex_age_and_scanner(self, tmp_path):
        """The first file of a series speaks for it; an age string becomes years."""
        for index, one in enumerate(mri()[:2]):
            one.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
        keywords = ["PatientSex", "PatientAge", "ManufacturerModelName", "MagneticFieldStrength"]
        assert read_header(tmp_path, keywords, name="p") == {
            "PatientSex": "F",
            "PatientAge": "61",
            "ManufacturerModelName": "Phantom 3T",
            "MagneticFieldStrength": "",
        }

    def test_wrong_keyword_names_the_nearest(self):
        """A misspelt keyword is wrong use, answered with the right one."""
        with pytest.raises(UsageError, match="did you mean 'PatientSex'"):
            check_keywords(["PatientSexx"])

    def test_nothing_there_is_said(self, tmp_path):
        """An empty folder, a missing one and a text file are each one sentence."""
        (tmp_path / "empty").mkdir()
        (tmp_path / "text").write_text("hello")
        for name, said in (("empty", "empty"), ("gone", "no DICOM file"), ("text", "no DICOM")):
            with pytest.raises(DataError, match=said):
                read_header(tmp_path / name, ["PatientSex"], name=name)


@pytest.mark.parametrize("name", ["m.mha", "m.npy"])
def test_other_formats_are_named(tmp_path, name):
    """A file of an unread kind says which kinds are read."""
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="none of NIfTI"):
        read_masks(tmp_path / name, {}, name=name)
