import pandas as pd
from sklearn.ensemble import RandomForestClassifier

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train[["month", "lat", "long", "pressure"]], train["target"]

model = RandomForestClassifier(n_estimators=300, random_state=0)
model.fit(X, y)

prediction = model.predict(test[X.columns])
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
