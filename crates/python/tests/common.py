"""What the tests share. TALENT_RIS_DATA names a folder with RefShapes, TALENT_RIS_REFERENCE what Rust computes for it."""

import hashlib
import json
import os

import numpy as np
import talent_ris

DATA_ROOT = os.environ["TALENT_RIS_DATA"]
SIDE = 96
SETTINGS = {"batch_size": 4, "input_size": SIDE, "word_len": 17, "seed": 7}


def reference():
    with open(os.environ["TALENT_RIS_REFERENCE"], encoding="utf-8") as file:
        return json.load(file)


def dataset():
    return talent_ris.Dataset("refshapes", DATA_ROOT)


def sha256(array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


ARRAYS = ["images", "masks", "words", "positive_words", "negative_words", "valid"]


def digest(batch) -> dict:
    """A batch in the form of the reference."""
    found = {name: sha256(np.asarray(batch[name])) for name in ARRAYS}
    return {**found, "refs": list(batch["refs"])}
