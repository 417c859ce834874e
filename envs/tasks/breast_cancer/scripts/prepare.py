from sklearn.datasets import load_breast_cancer

from envs.splits import write_split

write_split(load_breast_cancer(as_frame=True).frame, "target")
