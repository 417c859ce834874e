import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train.drop(columns=["id", "target"]), train["target"]

model = make_pipeline(StandardScaler(), RidgeCV(alphas=[0.1, 1, 10, 100]))
model.fit(X, y)

prediction = model.predict(test.drop(columns=["id"]))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
