from sklearn.datasets import load_iris

from envs.splits import write_split

write_split(load_iris(as_frame=True).data, "petal width (cm)")
