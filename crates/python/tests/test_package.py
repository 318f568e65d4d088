"""The package against Rust, to the last bit, and its errors. Needs NumPy alone."""

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import unittest

import numpy as np
import talent_ris
from common import DATA_ROOT, SETTINGS, SIDE, dataset, digest, reference, sha256


def first_digests(batches, n, queue):
    queue.put([digest(batch) for _, batch in zip(range(n), batches)])


class Steps(unittest.TestCase):
    def test_every_step_is_that_of_rust(self):
        data = dataset()
        expected = reference()["steps"]
        self.assertEqual([ref.ref_id for ref in data.refs("val")], [step["ref_id"] for step in expected])
        for ref, step in zip(data.refs("val"), expected):
            image, mask = data.image(ref.image_id), data.mask(ref.ref_id)
            self.assertEqual((image.dtype, mask.dtype), (np.uint8, np.bool_))
            square = talent_ris.letterbox_mask(mask, SIDE)
            found = {
                "ref_id": ref.ref_id,
                "image": sha256(image),
                "mask": sha256(mask),
                "counts": talent_ris.encode_mask(mask)["counts"],
                "distractors": sha256(data.distractors(ref.ref_id)),
                "letterbox": sha256(talent_ris.letterbox(image, SIDE)),
                "letterbox_mask": sha256(square),
                "map_to_image": sha256(talent_ris.map_to_image(square, mask.shape)),
                "words": sha256(talent_ris.tokenize(ref.expressions[0], 17)),
            }
            self.assertEqual(found, step)

    def test_masks_there_and_back(self):
        data = dataset()
        mask = data.mask(data.refs("val")[0].ref_id)
        coded = talent_ris.encode_mask(mask)
        as_bytes = {**coded, "counts": coded["counts"].encode()}
        for form in [coded, as_bytes]:
            np.testing.assert_array_equal(talent_ris.decode_mask(form), mask)
        for form in [mask.astype(np.uint8) * 255, mask.astype(int), np.asfortranarray(mask), mask[::-1][::-1]]:
            self.assertEqual(talent_ris.encode_mask(form), coded)
        square = talent_ris.decode_mask([[1, 1, 4, 1, 4, 3, 1, 3]], size=(4, 6))
        self.assertEqual((square.shape, square.sum()), ((4, 6), 6))

    def test_other_normalisations(self):
        rgb = np.full((5, 7, 3), 51, np.uint8)
        found = talent_ris.letterbox(rgb, 7, ([0.0, 0.1, 0.2], [1.0, 0.5, 0.1], [0, 51, 255]))
        np.testing.assert_allclose(found[:, 3, 3], [0.2, 0.2, 0.0], atol=1e-6)
        np.testing.assert_allclose(found[:, 0, 0], [0.0, 0.2, 8.0], atol=1e-5)


class Batches(unittest.TestCase):
    def test_batches_are_those_of_the_trainer(self):
        data = dataset()
        for rank, expected in enumerate(reference()["batches"]):
            ranks = {"rank": rank, "world_size": rank + 1}
            batches = data.batches("train", epoch=1, **SETTINGS, **ranks)
            self.assertEqual(len(batches), len(expected))
            self.assertEqual([digest(batch) for batch in batches], expected)

    def test_resumed_in_the_middle_and_by_index(self):
        data = dataset()
        whole = [digest(batch) for batch in data.batches("train", **SETTINGS)]
        batches = data.batches("train", threads=1, **SETTINGS)
        for _ in range(3):
            next(batches)
        self.assertEqual(batches.position, 3)
        self.assertEqual(digest(next(data.batches("train", start=3, **SETTINGS))), whole[3])
        self.assertEqual(digest(next(pickle.loads(pickle.dumps(batches)))), whole[3])
        self.assertEqual(digest(batches[-1]), whole[-1])
        with self.assertRaises(IndexError):
            batches[len(batches)]

    def test_length_and_index_begin_at_the_start(self):
        data = dataset()
        whole = [digest(batch) for batch in data.batches("train", **SETTINGS)]
        for more in [{"start": 5}, {"start": 1, "worker": (1, 3)}]:
            batches = data.batches("train", **SETTINGS, **more)
            first, step = more["start"] + more.get("worker", (0, 1))[0], more.get("worker", (0, 1))[1]
            self.assertEqual(len(batches), len(whole[first::step]))
            self.assertEqual([digest(batches[i]) for i in range(len(batches))], whole[first::step])
            self.assertEqual([digest(batch) for batch in batches], whole[first::step])

    def test_threads_take_turns(self):
        batches = dataset().batches("train", **SETTINGS)
        seen, n = [], len(batches)
        threads = [threading.Thread(target=lambda: seen.extend(b["refs"][0] for b in batches)) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.assertLessEqual(batches.position, len(batches))
        self.assertEqual(len(set(seen)), n)

    def test_an_interrupted_wait_loses_no_batch(self):
        code = (
            "import os, signal, sys, threading, talent_ris\n"
            f"batches = talent_ris.Dataset('refshapes', {DATA_ROOT!r}).batches('train', 30, 2000, threads=1)\n"
            "threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
            "try:\n    next(batches)\nexcept KeyboardInterrupt:\n"
            "    assert batches.position == 0\n"
            "    assert next(batches)['refs'] == batches[0]['refs']\n    print('went on')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.stdout, "went on\n", done.stderr)

    def test_workers_share_the_batches_in_turns(self):
        data = dataset()
        whole = [digest(batch) for batch in data.batches("train", **SETTINGS)]
        of = [[digest(b) for b in data.batches("train", worker=(w, 3), start=1, **SETTINGS)] for w in range(3)]
        for worker, found in enumerate(of):
            self.assertEqual(found, whole[1 + worker :: 3])

    def test_every_rank_has_its_part_of_the_last_batch(self):
        data = dataset()
        n = len([ref for ref in data.refs("train")])
        seen = []
        for rank in range(3):
            batches = data.batches("train", rank=rank, world_size=3, drop_last=False, **SETTINGS)
            seen += [ref for batch in batches for ref in batch["refs"]]
        self.assertEqual((len(seen), len(set(seen))), (n, n))

    def test_other_splits_and_no_shuffling(self):
        data = dataset()
        batches = data.batches("val", 2, SIDE, shuffle=False, drop_last=False)
        names = [name for batch in batches for name in batch["refs"]]
        self.assertEqual(names, [f"refshapes/{ref.ref_id}" for ref in data.refs("val")])

    def test_texts_are_those_of_the_words(self):
        for batch in dataset().batches("train", **SETTINGS):
            for texts, words in [("texts", "words"), ("positive_texts", "positive_words")]:
                np.testing.assert_array_equal(talent_ris.tokenize(batch[texts], 17), batch[words])
            self.assertEqual([bool(text) for text in batch["negative_texts"]], list(batch["valid"] == 1))

    def test_arrays_outlive_everything_and_can_be_written(self):
        batches = dataset().batches("train", **SETTINGS)
        first = next(batches)["images"]
        kept = first.copy()
        for _ in range(4):
            next(batches)
        del batches
        gc.collect()
        np.testing.assert_array_equal(first, kept)
        first += 1
        self.assertTrue(first.flags.c_contiguous and not first.flags.owndata)

    def test_with_every_start_method(self):
        data = dataset()
        batches = data.batches("train", **SETTINGS)
        # The parent has threads and a batch on its way when it forks.
        expected = [digest(next(batches))] + [digest(batches[1]), digest(batches[2])]
        again = data.batches("train", **SETTINGS)
        next(again)
        for method in ["fork", "spawn", "forkserver"]:
            context = multiprocessing.get_context(method)
            queue = context.Queue()
            child = context.Process(target=first_digests, args=(again, 2, queue))
            child.start()
            self.assertEqual(queue.get(timeout=60), expected[1:], method)
            child.join(60)
            self.assertEqual(child.exitcode, 0, method)
        self.assertEqual(digest(next(again)), expected[1])

    def test_other_python_threads_run_meanwhile(self):
        ticks, done = [0], threading.Event()

        def count():
            while not done.wait(0.001):
                ticks[0] += 1

        thread = threading.Thread(target=count)
        thread.start()
        for _ in dataset().batches("train", 4, 448):
            pass
        done.set()
        thread.join()
        self.assertGreater(ticks[0], 10)


class Metrics(unittest.TestCase):
    def evaluators(self):
        data = dataset()
        shifted, blurred = (talent_ris.Evaluator(data, "val") for _ in range(2))
        for ref_id, sent_id, _ in reversed(shifted.expressions):
            mask = data.mask(ref_id)
            probabilities = talent_ris.map_to_image(talent_ris.letterbox_mask(mask, SIDE), mask.shape)
            blurred.update(ref_id, sent_id, probabilities)
            shifted.update(ref_id, sent_id, np.roll(mask.ravel(), 3).reshape(mask.shape))
        return {"shifted": shifted, "blurred": blurred}

    def test_reports_are_those_of_rust(self):
        expected = reference()["reports"]
        for name, evaluator in self.evaluators().items():
            self.assertEqual(evaluator.compute(), expected[name])
            self.assertEqual(pickle.loads(pickle.dumps(evaluator)).compute(), expected[name])
            records = evaluator.records()
            self.assertAlmostEqual(100 * np.mean([record["iou"] for record in records]), expected[name]["mIoU"])
            self.assertEqual([one["text"] for one in records], [text for _, _, text in evaluator.expressions])

    def test_merged_parts_are_the_whole(self):
        data = dataset()
        parts = [talent_ris.Evaluator(data, "val") for _ in range(2)]
        for place, (ref_id, sent_id, _) in enumerate(parts[0].expressions):
            parts[place % 2].update(ref_id, sent_id, data.mask(ref_id))
        with self.assertRaisesRegex(ValueError, "have no prediction, the first is ref_id"):
            parts[0].compute()
        self.assertEqual(parts[0].compute(partial=True)["n_expressions"], len(parts[0]))
        parts[0].merge(parts[1])
        self.assertEqual(parts[0].compute()["oIoU"], 100.0)
        ref_id, sent_id, _ = parts[0].expressions[0]
        parts[1].update(ref_id, sent_id, np.zeros_like(data.mask(ref_id)))
        with self.assertRaisesRegex(ValueError, "they differ"):
            parts[0].merge(parts[1])
        with self.assertRaisesRegex(ValueError, "another data set, split or threshold"):
            parts[0].merge(talent_ris.Evaluator(data, "testA"))
        parts[0].merge(parts[0])
        with self.assertRaisesRegex(ValueError, "yet"):
            talent_ris.Evaluator(data, "val").compute(partial=True)

    def test_files_of_predictions(self):
        shifted = self.evaluators()["shifted"]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "predictions.jsonl")
            shifted.write_predictions(path)
            read = talent_ris.Evaluator(dataset(), "val")
            self.assertEqual(read.read_predictions(path), len(shifted))
            self.assertEqual(read.compute(), shifted.compute())
            with open(path, "a", encoding="utf-8") as file:
                file.write('{"ref_id": 1}\n')
            with self.assertRaisesRegex(talent_ris.DataError, r"predictions.jsonl.*line"):
                read.read_predictions(path)
            with self.assertRaises(FileNotFoundError):
                read.read_predictions(path + "x")
            with self.assertRaises(OSError):
                shifted.write_predictions(os.path.join(folder, "no", "such", "folder", "x.jsonl"))


class Errors(unittest.TestCase):
    def test_errors_say_what_and_where(self):
        data = dataset()
        ref = data.refs("val")[0]
        mask, image = data.mask(ref.ref_id), data.image(ref.image_id)
        evaluator = talent_ris.Evaluator(data, "val")
        nan = np.full(mask.shape, np.nan, np.float32)
        for expected, words, wrong in [
            (FileNotFoundError, "refcoco", lambda: talent_ris.Dataset("refcoco", DATA_ROOT)),
            (talent_ris.DataError, "unknown data set", lambda: talent_ris.Dataset("nope", DATA_ROOT)),
            (talent_ris.DataError, "no split `x`", lambda: data.refs("x")),
            (KeyError, "no ref -5", lambda: data.mask(-5)),
            (KeyError, "no image", lambda: data.image(10**12)),
            (TypeError, r"uint8 array .* not float64", lambda: talent_ris.letterbox(image.astype(float), 8)),
            (ValueError, "size must be", lambda: talent_ris.letterbox(image, 0)),
            (ValueError, "size must be", lambda: talent_ris.letterbox(image, 10**6)),
            (TypeError, "not floats", lambda: talent_ris.letterbox_mask(mask * 0.5, 8)),
            (ValueError, "square", lambda: talent_ris.map_to_image(np.zeros((2, 3)), (4, 4))),
            (ValueError, "size=", lambda: talent_ris.decode_mask([[1, 1, 2, 2, 3, 1]])),
            (talent_ris.DataError, "polygon", lambda: talent_ris.decode_mask([[1, 2]], (5, 5))),
            (talent_ris.DataError, "RLE", lambda: talent_ris.decode_mask({"size": [5, 5], "counts": "@@"})),
            (ValueError, "word_len", lambda: talent_ris.tokenize("x", 1)),
            (ValueError, "batch_size", lambda: data.batches("train", 0)),
            (ValueError, "rank 2", lambda: data.batches("train", 1, rank=2, world_size=2)),
            (FileNotFoundError, "no such folder", lambda: talent_ris.Dataset("refshapes", DATA_ROOT + "/nowhere")),
            (ValueError, "GiB", lambda: data.batches("train", 10**6, 16384)),
            (ValueError, "threads", lambda: data.batches("train", threads=10**5)),
            (ValueError, "normalisation", lambda: talent_ris.letterbox(image, 8, ((0, 0, 0), (0, 0, 0), (0, 0, 0)))),
            (ValueError, "on_error", lambda: data.batches("train", 1, on_error="x")),
            (ValueError, "beyond", lambda: data.batches("train", 1, start=10**9)),
            (KeyError, "no expression", lambda: evaluator.update(-1, -1, mask)),
            (ValueError, "map_to_image", lambda: evaluator.update(ref.ref_id, ref.sent_ids[0], mask[1:])),
            (ValueError, "NaN", lambda: evaluator.update(ref.ref_id, ref.sent_ids[0], nan)),
            (ValueError, "sigmoid", lambda: evaluator.update(ref.ref_id, ref.sent_ids[0], mask * 9.0)),
            (ValueError, "threshold", lambda: talent_ris.Evaluator(data, "val", threshold=35)),
        ]:
            with self.assertRaisesRegex(expected, words):
                wrong()

    def test_a_bad_picture_is_named_or_left_out(self):
        import shutil

        with tempfile.TemporaryDirectory() as root:
            shutil.copytree(os.path.join(DATA_ROOT, "refshapes"), os.path.join(root, "refshapes"))
            data = talent_ris.Dataset("refshapes", root)
            bad = data.refs("train")[0]
            folder = next(path for path, _, names in os.walk(root) if any(n.endswith((".png", ".jpg")) for n in names))
            name = next(n for n in sorted(os.listdir(folder)) if int(n.split("_")[-1].split(".")[0]) == bad.image_id)
            with open(os.path.join(folder, name), "wb") as file:
                file.write(b"no picture")
            with self.assertRaisesRegex(talent_ris.DataError, name):
                list(data.batches("train", 4, SIDE))
            batches = list(data.batches("train", 4, SIDE, on_error="skip"))
            single = list(data.batches("train", 1, SIDE, on_error="skip", prefetch=10**12))
            for found in [batches, single]:
                self.assertIn(f"refshapes/{bad.ref_id}", [name for batch in found for name, _ in batch["bad"]])
            stopped = data.batches("train", 4, SIDE)
            for _ in range(2):
                with self.assertRaises(talent_ris.DataError):
                    list(stopped)
            left_out = [name for batch in batches for name, _ in batch["bad"]]
            self.assertIn(f"refshapes/{bad.ref_id}", left_out)
            for batch in batches:
                self.assertEqual(len(batch["texts"]), len(batch["refs"]))
                np.testing.assert_array_equal(talent_ris.tokenize(batch["texts"], batch["words"].shape[1]), batch["words"])

    def test_commands(self):
        run = lambda *args: subprocess.run(args, capture_output=True, text=True, timeout=120, check=False)
        bin = os.path.dirname(sys.executable)
        listed = run(os.path.join(bin, "talent-data"), "stats", "--dataset", "refshapes", "--data-root", DATA_ROOT, "--json")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        wrong = run(os.path.join(bin, "talent-data"), "stats", "--dataset", "nope", "--data-root", DATA_ROOT)
        self.assertEqual((wrong.returncode, "unknown data set" in wrong.stderr), (1, True), wrong.stderr)
        empty = run(os.path.join(bin, "talent-results"), "--runs", os.path.join(DATA_ROOT, "no-runs"))
        self.assertEqual((empty.returncode, "no finished run" in empty.stderr), (1, True), empty.stderr)


if __name__ == "__main__":
    unittest.main()
