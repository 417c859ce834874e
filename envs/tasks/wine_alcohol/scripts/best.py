import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train.drop(columns=["id", "target"]), train["target"]

model = ExtraTreesRegressor(n_estimators=300, min_samples_leaf=3, random_state=0)
model.fit(X, y)

prediction = model.predict(test.drop(columns=["id"]))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
