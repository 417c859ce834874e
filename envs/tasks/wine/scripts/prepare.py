from sklearn.datasets import load_wine

from envs.splits import write_split

write_split(load_wine(as_frame=True).frame, "target")
