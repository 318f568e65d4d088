"""Another program's masks: python score.py DATASET DATA_ROOT FOLDER, with FOLDER/SENT_ID.npy for each expression"""

import sys

import numpy as np
import talent_ris

name, root, folder = sys.argv[1:]
evaluator = talent_ris.Evaluator(talent_ris.Dataset(name, root), "val")
for ref_id, sent_id, text in evaluator.expressions:
    evaluator.update(ref_id, sent_id, np.load(f"{folder}/{sent_id}.npy"))
report = evaluator.compute()
print(f"mIoU {report['mIoU']:.2f}, oIoU {report['oIoU']:.2f}, NTA mass {report['nta_mass'] or 0:.2f}")
