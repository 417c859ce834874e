# Runs once, in scripts/. Replace the data by a table of your own: features and one column to predict, which is called
# `target` in what is written.
from sklearn.datasets import load_diabetes

from envs.splits import write_split

write_split(load_diabetes(as_frame=True).frame, "target")
