from sklearn.datasets import load_digits

from envs.splits import write_split

write_split(load_digits(as_frame=True).frame, "target")
