"""The package inside PyTorch's DataLoader. Needs torch."""

import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import torch
from common import DATA_ROOT, SETTINGS, dataset, digest
from torch.utils.data import DataLoader, IterableDataset


class Streamed(IterableDataset):
    """Batches as an iterable data set; the workers share them."""

    def __init__(self, data, settings):
        self.data, self.settings = data, settings

    def __iter__(self):
        return self.data.batches("train", **self.settings)


class Loader(unittest.TestCase):
    def test_indexed_and_streamed_with_every_start_method(self):
        data = dataset()
        batches = data.batches("train", **SETTINGS)
        expected = [digest(batch) for batch in data.batches("train", **SETTINGS)]
        for what in [batches, Streamed(data, SETTINGS)]:
            self.assertEqual([digest(b) for b in DataLoader(what, batch_size=None)], expected)
            for method in ["fork", "spawn", "forkserver"]:
                loader = DataLoader(what, batch_size=None, num_workers=2, multiprocessing_context=method)
                self.assertEqual([digest(batch) for batch in loader], expected, (what, method))

    def test_a_loader_goes_on_in_the_middle(self):
        data = dataset()
        expected = [digest(batch) for batch in data.batches("train", **SETTINGS)][5:]
        for n in [0, 2]:
            loader = DataLoader(data.batches("train", start=5, **SETTINGS), batch_size=None, num_workers=n)
            self.assertEqual([digest(batch) for batch in loader], expected, n)

    def test_tensors_share_memory(self):
        images = next(dataset().batches("train", **SETTINGS))["images"]
        tensor = torch.from_numpy(images)
        tensor[0, 0, 0, 0] = 5
        self.assertEqual(images[0, 0, 0, 0], 5)
        self.assertEqual(tensor.dtype, torch.float32)

    def test_tensors_are_evaluated(self):
        import talent_ris

        data = dataset()
        evaluator = talent_ris.Evaluator(data, "val")
        ref_id, sent_id, _ = evaluator.expressions[0]
        mask = torch.from_numpy(data.mask(ref_id))
        for x in [mask, mask.to(torch.uint8), mask.float(), mask.half(), mask.double()]:
            evaluator.update(ref_id, sent_id, x)
            np.testing.assert_allclose(evaluator.compute(partial=True)["mIoU"], 100.0, rtol=1e-6)


class Examples(unittest.TestCase):
    def run_example(self, name, *args):
        path = os.path.join(os.path.dirname(__file__), "..", "examples", name)
        command = [sys.executable, path, "refshapes", DATA_ROOT, *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_a_loop_learns(self):
        losses = [float(line.split()[-1]) for line in self.run_example("train_loop.py", "2").splitlines()]
        self.assertEqual(len(losses), 2)
        self.assertLess(losses[1], losses[0])

    def test_masks_of_others_are_scored(self):
        import talent_ris

        data = dataset()
        with tempfile.TemporaryDirectory() as folder:
            for ref_id, sent_id, _ in talent_ris.Evaluator(data, "val").expressions:
                np.save(os.path.join(folder, f"{sent_id}.npy"), data.mask(ref_id))
            self.assertEqual(self.run_example("score.py", folder), "mIoU 100.00, oIoU 100.00, NTA mass 0.00\n")


if __name__ == "__main__":
    unittest.main()
