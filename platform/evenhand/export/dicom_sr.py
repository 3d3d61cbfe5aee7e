"""Measurements of a reviewed mask as a DICOM structured report (TID 1500).

The tumour as a whole is a volumetric region (TID 1411) that names the segment of the
DICOM SEG beside it; each lesion is a group of its own (TID 1501) with volume, long
and short axis. Who has decided is the observer, and the device beside them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evenhand import __version__
from evenhand.errors import DataError, ResourceError
from evenhand.export.files import save_whole
from evenhand.metrics.lesion_sizes import LesionSize

__all__ = ["write_dicom_sr"]


def write_dicom_sr(
    path: Path, seg: Path, series: Sequence[Any], lesions: Sequence[LesionSize], *, observer: str
) -> None:
    """Write a report; the file appears whole or not at all.

    Args:
        path: the file.
        seg: the DICOM SEG of the mask, on the same series.
        series: headers of the slices that the mask lies on.
        lesions: what was measured.
        observer: printed name of who has decided.

    Raises:
        DataError: there is no lesion to report, or the SEG cannot be read.
        ResourceError: the file cannot be written.
    """
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    if not lesions:
        raise DataError("The mask holds no tumour, so there is nothing to measure.")
    try:
        segmentation = pydicom.dcmread(seg)
    except OSError as error:
        raise ResourceError(f"'{seg}' cannot be read: {error.strerror}.") from None
    content = hd.sr.MeasurementReport(
        observation_context=_context(observer),
        procedure_reported=hd.sr.CodedConcept("18748-4", "LN", "Diagnostic imaging study"),
        imaging_measurements=[
            _whole(segmentation, str(series[0].SeriesInstanceUID), lesions),
            *(_lesion(number, one) for number, one in enumerate(lesions, start=1)),
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = hd.sr.Comprehensive3DSR(
        evidence=[segmentation, *series],
        content=content,
        series_instance_uid=hd.UID(),
        series_number=901,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Evenhand",
        is_complete=True,
    )
    report.SeriesDescription = "Tumour measurements"
    report.SoftwareVersions = __version__
    save_whole(report, path)


def _context(observer: str) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.sr.ObservationContext(
        observer_person_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Person,
            observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(
                name=f"{observer.replace('^', ' ')}^"
            ),
        ),
        observer_device_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=hd.UID(), name="Evenhand review", manufacturer_name="Evenhand"
            ),
        ),
    )


def _whole(segmentation: Any, series_uid: str, lesions: Sequence[LesionSize]) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segment = segmentation.SegmentSequence[0]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=segment.TrackingUID, identifier=segment.TrackingID
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=1,
            source_series=hd.sr.SourceSeriesForSegmentation(series_uid),
        ),
        finding_type=codes.SCT.Neoplasm,
        measurements=[_volume(sum(one.volume_mm3 for one in lesions))],
    )


def _lesion(number: int, size: LesionSize) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    millimetre = codes.UCUM.Millimeter
    axes = (
        (hd.sr.CodedConcept("103339001", "SCT", "Long Axis"), size.long_axis_mm),
        (hd.sr.CodedConcept("103340004", "SCT", "Short Axis"), size.short_axis_mm),
    )
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=f"lesion-{number}"),
        finding_type=codes.SCT.Neoplasm,
        measurements=[
            _volume(size.volume_mm3),
            *(
                hd.sr.Measurement(name=name, value=round(value, 2), unit=millimetre)
                for name, value in axes
            ),
        ],
    )


def _volume(value_mm3: float) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.sr.Measurement(
        name=codes.SCT.Volume, value=round(value_mm3, 2), unit=codes.UCUM.CubicMillimeter
    )
