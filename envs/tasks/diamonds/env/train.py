import pandas as pd
from sklearn.tree import DecisionTreeRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
numbers = ["carat", "depth", "table", "x", "y", "z"]

model = DecisionTreeRegressor(max_depth=5, random_state=0)
model.fit(train[numbers], train["target"])

prediction = model.predict(test[numbers])
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
