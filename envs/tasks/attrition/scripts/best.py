import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
both = pd.get_dummies(pd.concat([train.drop(columns="target"), test]).drop(columns="id"), dtype=float)

model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=500))
model.fit(both.iloc[: len(train)], train["target"])

prediction = model.predict_proba(both.iloc[len(train) :])[:, 1]
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
