"""Referring image segmentation: data sets, batches, and metrics with non-target activation, in Rust.

>>> import talent_ris
>>> dataset = talent_ris.Dataset("refshapes", "datasets")
>>> dataset.refs("val")[0].expressions
"""

from ._native import (
    Batches,
    DataError,
    Dataset,
    Evaluator,
    __version__,
    decode_mask,
    encode_mask,
    letterbox,
    letterbox_mask,
    map_to_image,
    tokenize,
)
from ._types import Batch, Normalisation, Ref

__all__ = [
    "Batch",
    "Batches",
    "DataError",
    "Dataset",
    "Evaluator",
    "Normalisation",
    "Ref",
    "__version__",
    "decode_mask",
    "encode_mask",
    "letterbox",
    "letterbox_mask",
    "map_to_image",
    "tokenize",
]
