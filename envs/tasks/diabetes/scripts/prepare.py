from sklearn.datasets import load_diabetes

from envs.splits import write_split

bunch = load_diabetes(as_frame=True, scaled=False)
write_split(bunch.frame, "target")
