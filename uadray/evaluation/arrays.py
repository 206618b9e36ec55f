"""The types that figures are computed with."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]

Groups = npt.NDArray[np.str_]
"""[n] What samples belong together: a patient, or a slide."""

Interval = list[float]
"""Lower and upper end, 95 % unless it says otherwise."""

Points = list[list[float]]
"""Of a curve in a report: rows of x and y, or of x and the two ends of a band."""
