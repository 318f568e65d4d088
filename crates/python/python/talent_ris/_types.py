"""What is easier in Python than in Rust."""

import json
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float], tuple[int, int, int]]
"""Mean and standard deviation of R, G, B in units of 255, and the border colour, 0 to 255."""


class Batch(TypedDict):
    """n samples; S is the side of the network's square, K the number of token ids."""

    images: NDArray[np.float32]
    """[n, 3, S, S], normalised."""
    masks: NDArray[np.float32]
    """[n, 1, S, S], 0 to 1, fractional at boundaries."""
    words: NDArray[np.int64]
    """[n, K], CLIP's token ids of an expression of each ref."""
    positive_words: NDArray[np.int64]
    """[n, K], of another expression of the ref; where there is none, of the same with a full stop."""
    negative_words: NDArray[np.int64]
    """[n, K], of an expression of another object in the image; zeros where there is none."""
    valid: NDArray[np.float32]
    """[n], 1 where there is a negative expression, otherwise 0."""
    texts: list[str]
    positive_texts: list[str]
    negative_texts: list[str]
    refs: list[str]
    """[n], as "data set/ref_id"."""
    bad: list[tuple[str, str]]
    """Names and errors of the samples that on_error="skip" has left out; not counted in n."""


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
