"""Training samples of this package against the usual Python path (OpenCV, pycocotools, open_clip's tokenizer, PyTorch), by turns.

Both decode JPEGs from files, letterbox to 448 x 448 (bicubic), warp the mask, draw and tokenise three expressions, and normalise; one
thread each. Prints samples per second and core, and peak resident memory, of each turn and as a ratio.

needs: talent_ris torch opencv-python-headless pycocotools open_clip_torch
usage: python against_opencv.py DATASET DATA_ROOT [TURNS]
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time

SIDE, WORDS, BATCH = 448, 17, 8


def ours(name, root):
    import talent_ris

    data = talent_ris.Dataset(name, root)
    run = lambda epoch: sum(len(b["refs"]) for b in data.batches("train", BATCH, SIDE, WORDS, epoch=epoch, threads=1))
    return run


def opencv(name, root):
    import cv2
    import numpy as np
    import talent_ris
    import torch
    from open_clip.tokenizer import SimpleTokenizer
    from pycocotools import mask as coco

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    data = talent_ris.Dataset(name, root)  # The list of refs; what is measured does not use it.
    refs = data.refs("train")
    with open(os.path.join(root, name, "instances.json"), encoding="utf-8") as file:
        document = json.load(file)
    images = {image["id"]: image for image in document["images"]}
    annotations = {one["id"]: one for one in document["annotations"]}
    folder = next(path for path, _, names in os.walk(root) if images[refs[0].image_id]["file_name"] in names)
    in_image = {}
    for ref in refs:
        in_image.setdefault(ref.image_id, []).append(ref)
    tokens = SimpleTokenizer(context_length=WORDS)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    border = [255 * value for value in mean.flatten().tolist()]

    def sample(ref):
        record = images[ref.image_id]
        image = cv2.cvtColor(cv2.imread(os.path.join(folder, record["file_name"])), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        scale = min(SIDE / height, SIDE / width)
        x, y = (SIDE - width * scale) / 2, (SIDE - height * scale) / 2
        corners = np.float32([[0, 0], [width, 0], [0, height]])
        matrix = cv2.getAffineTransform(corners, np.float32([[x, y], [width * scale + x, y], [x, height * scale + y]]))
        image = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderValue=border)
        coded = annotations[ref.ann_ids[0]]["segmentation"]
        if isinstance(coded, list) or isinstance(coded["counts"], list):
            coded = coco.frPyObjects(coded, height, width)
        mask = coco.decode(coco.merge(coded) if isinstance(coded, list) else coded) * 255
        mask = cv2.warpAffine(mask, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR) / 255.0
        texts = [random.choice(ref.expressions), random.choice(ref.expressions)]
        others = [other for other in in_image[ref.image_id] if other is not ref]
        if others:
            texts.append(random.choice(random.choice(others).expressions))
        pixels = torch.from_numpy(image.transpose(2, 0, 1)).float().div_(255).sub_(mean).div_(std)
        return pixels, torch.from_numpy(mask).float(), tokens(texts)

    def run(epoch):
        order = random.Random(epoch).sample(refs, len(refs))
        whole = len(order) // BATCH * BATCH
        for start in range(0, whole, BATCH):
            samples = [sample(ref) for ref in order[start : start + BATCH]]
            torch.stack([pixels for pixels, _, _ in samples]), torch.stack([mask for _, mask, _ in samples])
        return whole

    return run


def measure(which, name, root):
    run = {"ours": ours, "opencv": opencv}[which](name, root)
    run(0)
    begin = time.perf_counter()
    samples = sum(run(epoch) for epoch in range(1, 4))
    rate = samples / (time.perf_counter() - begin)
    print(json.dumps({"rate": rate, "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main():
    name, root = sys.argv[1:3]
    turns = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    found = {"ours": [], "opencv": []}
    for _ in range(turns):
        for which, results in found.items():
            command = [sys.executable, __file__, "--measure", which, name, root]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for which, results in found.items():
        rates = sorted(one["rate"] for one in results)
        memory = max(one["rss_mib"] for one in results)
        print(f"{which}: {statistics.median(rates):.0f} samples/s/core ({rates[0]:.0f} to {rates[-1]:.0f}), {memory:.0f} MiB")
    ratios = [a["rate"] / b["rate"] for a, b in zip(found["ours"], found["opencv"])]
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        measure(*sys.argv[2:])
    else:
        main()
