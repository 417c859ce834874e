import pandas as pd
from sklearn.ensemble import RandomForestRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
columns = ["month", "day", "hour", "weekday", "distance"]

model = RandomForestRegressor(n_estimators=400, random_state=0)
model.fit(train[columns], train["target"])

prediction = model.predict(test[columns])
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
