"""The paper's evaluation, rebuilt: data, networks, scores, tables and figures, from one command.

:mod:`~crossmorph.reproduction.run` goes through the steps: :mod:`~crossmorph.reproduction.datasets` (the user's, or
simulated ones), :mod:`~crossmorph.reproduction.experiments` (networks to train), :mod:`~crossmorph.reproduction.scores`
(methods on the test pairs), :mod:`~crossmorph.reproduction.tables`, :mod:`~crossmorph.reproduction.figures` and
:mod:`~crossmorph.reproduction.page`. They share the types of :mod:`~crossmorph.reproduction.plan`;
:mod:`~crossmorph.reproduction.task_cache` runs the tasks that are not done yet, in processes.
"""
