import pandas as pd
from sklearn.linear_model import LinearRegression

train = pd.read_csv("train.csv").fillna(0)
test = pd.read_csv("test.csv").fillna(0)
columns = ["year", "month", "sales", "listings", "inventory"]

model = LinearRegression()
model.fit(train[columns], train["target"])

prediction = model.predict(test[columns])
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
