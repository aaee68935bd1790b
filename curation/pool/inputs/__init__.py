"""What a pool can be built from, turned into files of JSON records that can be indexed.

`prepare` is the way in; `kinds` says what a file is, and one module reads each kind.
"""

from curation.pool.inputs.given import FORMATS, InputFile, InputOptions, Prepared, Sampling
from curation.pool.inputs.unpack import prepare

__all__ = ["FORMATS", "InputFile", "InputOptions", "Prepared", "Sampling", "prepare"]
