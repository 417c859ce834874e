from sklearn.datasets import load_wine

from envs.splits import write_split

bunch = load_wine(as_frame=True)
write_split(bunch.frame, "target", seed=1)
