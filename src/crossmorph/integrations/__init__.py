"""Registration inside other programs: pipelines of MONAI and Nipype, windows of napari."""
