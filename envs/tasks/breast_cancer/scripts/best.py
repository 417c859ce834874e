import pandas as pd
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train.drop(columns=["id", "target"]), train["target"]

model = make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=0.1))
model.fit(X, y)

prediction = model.predict_proba(test.drop(columns=["id"]))[:, 1]
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
