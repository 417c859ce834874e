from sklearn.datasets import load_breast_cancer

from envs.splits import write_split

bunch = load_breast_cancer(as_frame=True)
write_split(bunch.frame, "target")
