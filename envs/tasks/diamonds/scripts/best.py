import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
both = pd.concat([train, test])
for name in ("cut", "color", "clarity"):
    both[name] = both[name].astype("category").cat.codes
X, X_test = both.iloc[: len(train)].drop(columns=["id", "target"]), both.iloc[len(train) :].drop(columns=["id", "target"])

model = HistGradientBoostingRegressor(max_iter=600, learning_rate=0.06, max_leaf_nodes=40, random_state=0)
model.fit(X, np.log1p(train["target"]))

prediction = np.expm1(model.predict(X_test))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
