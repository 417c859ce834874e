import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor, VotingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train.drop(columns=["id", "target"]), train["target"]

ridge = make_pipeline(StandardScaler(), Ridge(alpha=10))
boosting = GradientBoostingRegressor(n_estimators=80, learning_rate=0.05, max_depth=2, subsample=0.6, random_state=0)
model = VotingRegressor([("ridge", ridge), ("boosting", boosting)])
model.fit(X, y)

prediction = model.predict(test.drop(columns=["id"]))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
