"""Registration inside the pipelines of MONAI and Nipype."""
