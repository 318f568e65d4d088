from os import PathLike
from typing import Any, Literal, Sequence, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._types import Batch, Normalisation, Ref

__all__ = [
    "Batches",
    "DataError",
    "Dataset",
    "Evaluator",
    "__version__",
    "data_command",
    "decode_mask",
    "encode_mask",
    "letterbox",
    "letterbox_mask",
    "map_to_image",
    "results_command",
    "tokenize",
]
__version__: str

class DataError(ValueError):
    """A data set, a record, or a file of predictions that cannot be used. The message names the file and the record."""

@final
class Dataset:
    """A data set of referring image segmentation: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and others in their original files, or own data.

    name: such as "refcoco"; `talent-data list` shows all. data_root: the folder of the data sets, "datasets" by default.
    Raises FileNotFoundError where files are missing, and DataError, with file and record, where they cannot be used.
    """

    def __new__(cls, name: str, data_root: str | PathLike[str] | None = None) -> Dataset: ...
    @property
    def name(self) -> str: ...
    @property
    def splits(self) -> list[str]: ...
    def __len__(self) -> int:
        """Number of refs."""
    def refs(self, split: str | None = None) -> list[Ref]:
        """Refs of a split, or all, in the order of the file."""
    def image(self, image_id: int) -> NDArray[np.uint8]:
        """An image as [height, width, 3], RGB. Raises KeyError for an unknown id."""
    def mask(self, ref_id: int) -> NDArray[np.bool_]:
        """The target of a ref as [height, width] in the pixels of its image: the union of its objects."""
    def distractors(self, ref_id: int) -> NDArray[np.bool_]:
        """The distractors of a ref as [n, height, width]: the other objects of its category in its image, without crowds."""
    def batches(
        self,
        split: str = "train",
        batch_size: int = 8,
        input_size: int = 448,
        word_len: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        epoch: int = 0,
        start: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        worker: tuple[int, int] | None = None,
        threads: int | None = None,
        prefetch: int = 2,
        on_error: Literal["stop", "skip"] = "stop",
        negatives: Literal["any-object", "same-category"] = "any-object",
        normalisation: Normalisation | None = None,
    ) -> Batches:
        """Training batches of one epoch, in an order that depends on seed and epoch alone.

        - split: of "train", refs whose image is also in an evaluation split are left out, as for training
        - batch_size: samples a batch and rank; incomplete batches are left out unless drop_last=False
        - word_len: token ids per expression; the data set's own by default (17 for RefCOCO)
        - rank, world_size: this process takes its part of every `world_size` batches
        - start: number of batches to skip, to go on in the middle of an epoch (Batches.position)
        - worker: (number, count) to share a rank's batches in turns; inside PyTorch's DataLoader its workers share them by themselves
        - threads: 1 per core by default, divided among DataLoader's workers
        - prefetch: batches that are prepared ahead
        - on_error: whether a sample that cannot be read stops the iteration or is left out
        - normalisation: CLIP's by default
        """

@final
class Batches:
    """An iterator over the batches of one epoch from `start` on. len() is their number; batches[i] is the i-th, wherever the iterator is."""

    def __iter__(self) -> Batches: ...
    def __next__(self) -> Batch: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Batch: ...
    @property
    def position(self) -> int:
        """Number of batches of this rank's epoch that the iterator has passed. A DataLoader takes batches[i] and does not move it."""

@final
class Evaluator:
    """Metrics of predictions for the expressions of a split: mIoU, oIoU, Pr@X, boxes, non-target activation, gRefCOCO's, by group.

    threshold: a probability above it is foreground; the official evaluation takes 0.35.
    """

    def __new__(cls, dataset: Dataset, split: str = "val", threshold: float = 0.35) -> Evaluator: ...
    def __len__(self) -> int:
        """Number of expressions with a prediction."""
    @property
    def expressions(self) -> list[tuple[int, int, str]]:
        """(ref_id, sent_id, text) of every expression of the split."""
    def update(self, ref_id: int, sent_id: int, x: ArrayLike) -> None:
        """Measures the prediction for one expression; a second one for the same expression replaces the first.

        x: bool or whole numbers [height, width] are a mask, floats are probabilities, in the pixels of the image.
        """
    def merge(self, other: Evaluator) -> None:
        """Adds what another evaluator of the same split has measured. Both may have an expression if they agree."""
    def compute(self, partial: bool = False) -> dict[str, Any]:
        """All metrics in percent, with "groups". Raises ValueError while expressions have no prediction, unless partial."""
    def records(self) -> list[dict[str, Any]]:
        """What was measured for each expression: its text, IoU, counts of pixels, probability mass, distractors."""
    def read_predictions(self, path: str | PathLike[str]) -> int:
        """Reads masks from a JSONL file; returns how many are of this split."""
    def write_predictions(self, path: str | PathLike[str]) -> None:
        """Writes the masks as a JSONL file, whole or not at all."""

def letterbox(rgb: NDArray[np.uint8], size: int, normalisation: Normalisation | None = None) -> NDArray[np.float32]:
    """The image (uint8 [height, width, 3]) in the network's square: [3, size, size], bicubic, normalised."""

def letterbox_mask(mask: NDArray[np.bool_ | np.integer[Any]], size: int) -> NDArray[np.float32]:
    """A mask in the network's square: [size, size], 0 to 1, bilinear."""

def map_to_image(probabilities: NDArray[np.floating[Any]], size: Sequence[int]) -> NDArray[np.float32]:
    """Probabilities over the network's square [S, S] in the pixels of the image, [height, width], bicubic; size: (height, width)."""

def tokenize(text: str | Sequence[str], word_len: int = 17) -> NDArray[np.int64]:
    """CLIP's token ids: [word_len], or [n, word_len] for a list."""

def decode_mask(segmentation: Any, size: Sequence[int] | None = None) -> NDArray[np.bool_]:
    """A COCO segmentation as [height, width]: run lengths, or polygons, which need size=(height, width)."""

def encode_mask(mask: NDArray[np.bool_ | np.integer[Any]]) -> dict[str, Any]:
    """A mask as COCO's compressed run lengths: {"size": [height, width], "counts": str}."""

def data_command(args: Sequence[str | PathLike[str]]) -> int: ...
def results_command(args: Sequence[str | PathLike[str]]) -> int: ...
