from __future__ import annotations
import numpy as np
def to_float(x): return x.astype(np.float32)/np.float32(255)
