from sklearn.datasets import load_digits

from envs.splits import write_split

bunch = load_digits(as_frame=True)
write_split(bunch.frame, "target")
