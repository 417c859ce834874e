import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
both = pd.concat([train.drop(columns="target"), test]).drop(columns="id")
both = both.assign(share=both["Amount"] / both["Price"], spare=both["Income"] - both["Expenses"])
both = pd.get_dummies(both, dtype=float)
both = both.fillna(both.median())

model = GradientBoostingClassifier(n_estimators=200, max_depth=3, learning_rate=0.05, subsample=0.6, random_state=0)
model.fit(both.iloc[: len(train)], train["target"])

prediction = model.predict_proba(both.iloc[len(train) :])[:, 1]
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
