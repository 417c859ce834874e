import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
recent = train[train["year"] >= 2010].groupby("city")["target"].mean()
past = train[train["year"] >= 2008].groupby(["city", "month"])["target"].mean().rename("season").reset_index()


def features(table):
    table = table.merge(past, on=["city", "month"], how="left")
    return table.assign(level=table["city"].map(recent))[["level", "season", "month", "sales", "listings", "inventory"]]


known = train[train["year"] >= 2010]
scale = features(known)["level"].to_numpy()
model = HistGradientBoostingRegressor(max_iter=60, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
model.fit(features(known), known["target"].to_numpy() / scale)

growth = 1.0 + 0.055 * (test["year"] + test["month"] / 12 - 2011.5).to_numpy()  # prices rose by about a twentieth a year
prediction = model.predict(features(test)) * features(test)["level"].to_numpy() * growth
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
