"""DICOM in: files found, series judged, voxels and segmentations put on one grid."""
