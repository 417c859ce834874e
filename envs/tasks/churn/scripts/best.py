import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = pd.read_csv("train.csv").fillna(0)
test = pd.read_csv("test.csv").fillna(0)
both = pd.get_dummies(pd.concat([train.drop(columns="target"), test]).drop(columns="id"), dtype=float)

boosting = GradientBoostingClassifier(n_estimators=150, max_depth=3, learning_rate=0.05, subsample=0.7, random_state=0)
linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
model = VotingClassifier([("boosting", boosting), ("linear", linear)], voting="soft")
model.fit(both.iloc[: len(train)], train["target"])

prediction = model.predict_proba(both.iloc[len(train) :])[:, 1]
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
