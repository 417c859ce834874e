import pandas as pd
from sklearn.tree import DecisionTreeRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train.drop(columns=["id", "target"]), train["target"]

model = DecisionTreeRegressor(random_state=0)
model.fit(X, y)

prediction = model.predict(test.drop(columns=["id"]))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
