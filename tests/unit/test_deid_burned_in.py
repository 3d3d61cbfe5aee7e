"""Burned-in text: what is certain is blanked, what is not goes to a person."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from evenhand.errors import DataError, ResourceError
from evenhand.ingest.deid import burned_in
from evenhand.ingest.deid.burned_in import CERTAIN, clean_pixels


def image(pixels, *, frames=None, photometric="MONOCHROME2"):
    """An object with the given pixels (h, w), (frames, h, w) or (h, w, 3)."""
    dataset = Dataset()
    colour = pixels.ndim == 3 and frames is None
    dataset.Rows, dataset.Columns = pixels.shape[:2] if frames is None else pixels.shape[1:3]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else photometric
    if colour:
        dataset.PlanarConfiguration = 0
    if frames is not None:
        dataset.NumberOfFrames = frames
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def reader(*found):
    """A stand-in for the OCR library that finds the same boxes, with these scores, everywhere."""
    boxes = [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for (x0, y0, x1, y1), _ in found]
    result = SimpleNamespace(boxes=boxes or None, scores=[score for _, score in found])
    return lambda _view: result


@pytest.fixture
def ocr(monkeypatch):
    """Let the stand-in read."""
    return lambda *found: monkeypatch.setattr(burned_in, "_engine", lambda: reader(*found))


class TestBlanking:
    """Regions go in all frames; the rest stays to the bit."""

    def test_certain_text_is_blanked_in_every_frame_and_nothing_else_is(self, ocr):
        """16 bits, three frames: the box and its margin become the smallest value."""
        ocr(((20, 10, 40, 18), CERTAIN))
        pixels = np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64) + 7
        dataset = image(pixels, frames=3)
        result = clean_pixels(dataset)
        assert (result.blanked, result.uncertain) == (1, ())
        expected = pixels.copy()
        expected[:, 7:21, 17:43] = 7
        assert np.array_equal(dataset.pixel_array, expected)

    def test_uncertain_text_stays_and_is_listed(self, ocr):
        """What may be anatomy is not destroyed; the list names a place, not a text."""
        ocr(((20, 10, 40, 18), CERTAIN - 0.01))
        pixels = np.full((64, 64), 9, np.uint8)
        dataset = image(pixels)
        result = clean_pixels(dataset)
        assert result.blanked == 0
        assert [finding.box for finding in result.uncertain] == [(17, 7, 43, 21)]
        assert np.array_equal(dataset.pixel_array, pixels)

    def test_black_is_what_is_shown_as_black(self, ocr):
        """Where small values are bright, the largest is black; in colour 0 is."""
        ocr(((20, 10, 40, 18), 0.9))
        inverted = image(
            np.arange(4096, dtype=np.uint16).reshape(64, 64), photometric="MONOCHROME1"
        )
        clean_pixels(inverted)
        assert (inverted.pixel_array[10:18, 20:40] == 4095).all()
        colour = image(np.full((64, 64, 3), 200, np.uint8))
        clean_pixels(colour)
        assert (colour.pixel_array[10:18, 20:40] == 0).all()
        assert colour.pixel_array[30, 30].tolist() == [200, 200, 200]

    def test_outside_ultrasound_regions_everything_goes(self, ocr):
        """The header says where the image is; the banner above it is blanked unread."""
        ocr()
        pixels = np.full((64, 64), 9, np.uint8)
        pixels[40, 40] = 0
        dataset = image(pixels)
        region = Dataset()
        region.RegionLocationMinX0, region.RegionLocationMinY0 = 8, 16
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 55, 63
        dataset.SequenceOfUltrasoundRegions = [region]
        assert clean_pixels(dataset).blanked == 1
        expected = np.zeros((64, 64), np.uint8)
        expected[16:64, 8:56] = pixels[16:64, 8:56]
        assert np.array_equal(dataset.pixel_array, expected)

    def test_pixels_that_cannot_be_decoded_are_refused(self, ocr):
        """Nobody claims to have cleaned what nobody could see."""
        ocr()
        dataset = image(np.zeros((64, 64), np.uint8))
        dataset.PixelData = b"\0" * 10
        with pytest.raises(DataError, match="decoded"):
            clean_pixels(dataset)

    def test_without_the_library_the_way_out_is_named(self, monkeypatch):
        """The optional part is asked for by name."""
        monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
        burned_in._engine.cache_clear()
        with pytest.raises(ResourceError, match=r"evenhand\[ocr\]"):
            clean_pixels(image(np.zeros((64, 64), np.uint8)))


class TestReading:
    """The library that ships with the part `ocr` reads what devices write."""

    def test_a_name_on_a_noisy_image_is_found_and_blanked(self):
        """White letters over noise, as on a secondary capture; most of their pixels go."""
        pytest.importorskip("rapidocr")
        burned_in._engine.cache_clear()
        noise = np.random.default_rng(0).integers(0, 90, (256, 384), dtype=np.uint8)
        picture = Image.fromarray(noise)
        ImageDraw.Draw(picture).text(
            (20, 20), "FEATHERSTONE ANN 1950", fill=255, font=ImageFont.load_default(22)
        )
        dataset = image(np.asarray(picture))
        letters = np.asarray(picture) == 255
        result = clean_pixels(dataset)
        left = dataset.pixel_array
        assert result.blanked >= 1
        assert (left[letters] == 255).mean() < 0.02
        assert np.array_equal(left[128:], noise[128:])
