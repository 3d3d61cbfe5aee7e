"""Masks and measurements out: DICOM SEG and structured report for a PACS."""

from evenhand.export.dicom_seg import MaskOrigin, read_source_series, write_dicom_seg
from evenhand.export.dicom_sr import write_dicom_sr

__all__ = ["MaskOrigin", "read_source_series", "write_dicom_seg", "write_dicom_sr"]
