import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train.drop(columns=["id", "target"]), train["target"]

model = ExtraTreesRegressor(n_estimators=200, min_samples_leaf=4, random_state=0)
model.fit(X, y)

prediction = model.predict(test.drop(columns=["id"]))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
