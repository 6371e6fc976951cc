"""The command line."""

import os

# A waiting thread releases its core soon. Else a slice takes 9.5 s instead of 0.6 where another program has one of two
# cores, since each of a thousand small operations waits for a thread that has no core; if threads release it at once, a
# volume takes 5.8 s instead of 4.5 on an idle machine. GNU's OpenMP reads this when PyTorch starts.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
