"""One way of a library to compute a problem."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Way:
    name: str
    call: Callable[[], object]
    # What the last call has computed: [heads][tokens][head_dim] in f32.
    result: Callable[[], np.ndarray]
    # Not timed: makes ready for calls, where a call changes what the next one finds.
    before: Callable[[], object] = lambda: None
