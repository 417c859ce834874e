import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
both = pd.concat([train.drop(columns="target"), test])
for name in ("sex", "plot_type"):
    both[name] = both[name].astype("category").cat.codes
both["date"] = both["year"] * 12 + both["month"]
both["build"] = both["weight"] / both["hindfoot_length"] ** 2
X, X_test = both.iloc[: len(train)].drop(columns="id"), both.iloc[len(train) :].drop(columns="id")

boosted = HistGradientBoostingClassifier(
    max_iter=80, learning_rate=0.05, max_leaf_nodes=15, l2_regularization=1.0, early_stopping=False, random_state=0
)
forest = RandomForestClassifier(200, min_samples_leaf=2, max_features=4, random_state=0)
boosted.fit(X, train["target"])
forest.fit(X.fillna(-1), train["target"])

chances = boosted.predict_proba(X_test) + forest.predict_proba(X_test.fillna(-1))
prediction = boosted.classes_[chances.argmax(axis=1)]
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
