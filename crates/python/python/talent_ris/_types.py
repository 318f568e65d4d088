"""What is easier in Python than in Rust."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ref:
    """The object or objects that some expressions refer to."""

    ref_id: int
    image_id: int
    split: str
    ann_ids: tuple[int, ...]
    """Annotations of the objects; none in data sets with expressions without a target."""
    category_ids: tuple[int, ...]
    categories: tuple[str, ...]
    """Names of the categories."""
    sent_ids: tuple[int, ...]
    """Ids of the expressions, in the order of `expressions`."""
    expressions: tuple[str, ...]


def batches_again(dataset, settings):
    """Batches from what they were pickled as."""
    return dataset.batches(**settings)


def _plain(value: Any):
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a segmentation cannot hold {type(value).__name__}")


def json_of(segmentation: Any) -> str:
    """A segmentation as JSON, with the bytes of pycocotools and NumPy's numbers."""
    return json.dumps(segmentation, default=_plain)
