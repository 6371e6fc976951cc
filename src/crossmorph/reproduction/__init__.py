"""The paper's evaluation, rebuilt: data, methods, tables and figures, from one command.

:mod:`~crossmorph.reproduction.run` goes through it from top to bottom: :mod:`~crossmorph.reproduction.datasets` (the
user's, or simulated stand-ins), :mod:`~crossmorph.reproduction.experiments` (networks to train),
:mod:`~crossmorph.reproduction.scores` (methods on the test pairs), then :mod:`~crossmorph.reproduction.tables` and
:mod:`~crossmorph.reproduction.figures`. :mod:`~crossmorph.reproduction.task_cache` runs what is not there yet in
processes.
"""
