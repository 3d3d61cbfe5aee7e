"""Masks out: DICOM SEG for a PACS."""

from evenhand.export.dicom_seg import MaskOrigin, read_source_series, write_dicom_seg

__all__ = ["MaskOrigin", "read_source_series", "write_dicom_seg"]
