"""Registration as a node of a Nipype workflow. Needs Nipype, which nothing else here does (``crossmorph[nipype]``)."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from nipype.interfaces.base import CommandLine, CommandLineInputSpec, File, TraitedSpec, traits

from crossmorph.provenance.record import record_path


class RegisterInputs(CommandLineInputSpec):
    """Files and settings of ``crossmorph register``; files to write are named after the moving image unless given."""

    moving_image = File(exists=True, mandatory=True, position=0, argstr="%s", desc="image to move")
    fixed_image = File(exists=True, mandatory=True, position=1, argstr="%s", desc="image to move it to")
    moved_image = File(
        name_source="moving_image", name_template="%s_moved.nii.gz", argstr="-o %s", desc="on the fixed image's grid"
    )
    transform = File(
        name_source="moving_image",
        name_template="%s_transform.h5",
        argstr="-t %s",
        desc="ITK's composite transform; .nii.gz for one displacement field",
    )
    inverse_transform = File(
        name_source="moving_image",
        name_template="%s_inverse.h5",
        argstr="--inverse %s",
        desc="the inverse, on the moving image's grid",
    )
    labels = File(exists=True, desc="label map of the moving image, to be moved by the nearest voxel")
    moved_labels = File(name_source="labels", name_template="%s_moved.nii.gz", argstr="--labels %s", desc="of labels")
    report = File(argstr="--report %s", desc="page (.html) or picture (.png, .pdf, .svg) to write")
    model = traits.Str(argstr="--model %s", desc="shipped name, or folder that train wrote")
    init = traits.Str(argstr="--init %s", desc="affine, centers, none, or an affine file")
    stage = traits.Enum("rigid", "similarity", "affine", "deformable", argstr="--stage %s", desc="the last one")
    smoothness = traits.Range(low=0.0, high=1.0, argstr="--smoothness %g", desc="from detailed to stiff")
    refine = traits.Str(argstr="--refine %s", desc="auto, on, off or seconds")
    threads = traits.Range(low=1, value=1, usedefault=True, nohash=True, argstr="--threads %d", desc="of the CPU")


class RegisterOutputs(TraitedSpec):
    """Files that were written."""

    moved_image = File(exists=True)
    transform = File(exists=True)
    inverse_transform = File(exists=True)
    moved_labels = File(exists=True, desc="where labels were given")
    report = File(exists=True, desc="where one was asked for")
    record = File(exists=True, desc="JSON beside the transform: measures, checks, settings, SHA-256 of all files")


class Register(CommandLine):
    """Register one image to another: the node runs ``crossmorph register`` in a process of its own.

    The node fails where the command does: on input that cannot be used, and where a check fails; nothing is written
    then.
    """

    input_spec = RegisterInputs
    output_spec = RegisterOutputs
    _cmd = f"{shlex.quote(sys.executable)} -m crossmorph register"

    def _format_arg(self, name: str, trait_spec: Any, value: Any) -> str | None:
        if name == "moved_labels":
            return f"--labels {shlex.quote(self.inputs.labels)} {shlex.quote(value)}"
        return super()._format_arg(name, trait_spec, value)

    def _post_run_hook(self, runtime: Any) -> Any:
        if runtime.returncode not in runtime.success_codes:
            self.raise_exception(runtime)  # Nipype itself would only miss the files, and not say why
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        outputs = super()._list_outputs()
        outputs["record"] = str(record_path(Path(outputs["transform"])))
        if self.inputs.report:
            outputs["report"] = os.path.abspath(self.inputs.report)
        return outputs
