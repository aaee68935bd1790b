"""Settings of every test process, made before torch is loaded."""

import os

# A process that has used OpenMP threads cannot fork, and several processes with as many threads as cores make
# small models many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
