"""Runs inside a sandbox, in the runner, once: what an experiment would otherwise import and set up in its own time.

Libraries put much off until it is first needed; a rehearsal of a small experiment has them do it now. Invariant: no
library starts a thread here, since the forks would wait for threads that they do not have (OpenMP's, for one).
"""

import contextlib
import ctypes
import importlib
import io

NAMES = (
    "numpy", "pandas", "scipy.stats", "sklearn.linear_model", "sklearn.ensemble", "sklearn.svm", "sklearn.neighbors",
    "sklearn.tree", "sklearn.naive_bayes", "sklearn.discriminant_analysis", "sklearn.neural_network",
    "sklearn.gaussian_process", "sklearn.kernel_ridge", "sklearn.preprocessing", "sklearn.pipeline",
    "sklearn.compose", "sklearn.decomposition", "sklearn.feature_selection", "sklearn.impute",
    "sklearn.model_selection", "sklearn.metrics", "sklearn.multioutput", "sklearn.cross_decomposition",
    "sklearn.feature_extraction.text",
    "torch", "torch.optim",
)  # fmt: skip
HUGE, MADV_COLLAPSE = 2 << 20, 25
"""Bytes of a huge page, and what asks Linux (6.1 and later) for them at once."""


def preload() -> None:
    """Import what is there of `NAMES`, and rehearse."""
    for name in NAMES:
        with contextlib.suppress(ImportError):  # an image may come without one
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        rehearse()


def rehearse() -> None:
    """Read a table, fit a model that uses no OpenMP, and write predictions."""
    import pandas
    from sklearn.naive_bayes import GaussianNB

    table = pandas.read_csv(io.StringIO("x,y,z\n0,1.5,a\n1,2.5,b\n2,0.5,a\n3,1.0,b\n"))
    model = GaussianNB().fit(table[["x", "y"]], table["z"])
    pandas.DataFrame({"z": model.predict(table[["x", "y"]])}).to_csv(io.StringIO(), index=False)


def collapse() -> None:
    """Have what is loaded lie in huge pages, where the kernel has them: a fork copies and gives back an entry for each
    page, which takes longer than a small experiment.

    Where it is refused, or a part of it is, the pages stay as they are.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with open("/proc/self/maps") as maps:
        regions = [line.split() for line in maps]
    for span, rights, _, _, _, *name in regions:
        first, last = (int(end, 16) for end in span.split("-"))
        first, last = -(-first // HUGE) * HUGE, last // HUGE * HUGE
        if rights == "rw-p" and name in ([], ["[heap]"]) and first < last:
            madvise(first, last - first, MADV_COLLAPSE)
