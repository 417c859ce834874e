from sklearn.datasets import load_diabetes

from envs.splits import write_split

write_split(load_diabetes(as_frame=True, scaled=False).frame, "target")
