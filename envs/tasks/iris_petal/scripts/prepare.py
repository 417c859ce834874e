from sklearn.datasets import load_iris

from envs.splits import write_split

bunch = load_iris(as_frame=True)
write_split(bunch.data, "petal width (cm)")
