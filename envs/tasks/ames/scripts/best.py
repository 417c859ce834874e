import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
both = pd.concat([train.drop(columns="target"), test]).drop(columns="id")
for name in ("Lot_Area", "Gr_Liv_Area", "First_Flr_SF", "Total_Bsmt_SF"):
    both[name] = np.log1p(both[name])
both = pd.get_dummies(both, dtype=float).fillna(0)
X, X_test, y = both.iloc[: len(train)], both.iloc[len(train) :], np.log1p(train["target"])

boosting = GradientBoostingRegressor(
    n_estimators=500, max_depth=4, learning_rate=0.04, subsample=0.6, max_features=0.2, random_state=0
)
linear = make_pipeline(StandardScaler(), RidgeCV(alphas=[100, 300, 1000]))
logs = sum(model.fit(X, y).predict(X_test) for model in (boosting, linear)) / 2
pd.DataFrame({"id": test["id"], "prediction": np.expm1(logs)}).to_csv("submission.csv", index=False)
