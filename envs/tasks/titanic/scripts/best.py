import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")


def features(table):
    shown = pd.get_dummies(table[["sex", "passengerClass"]], dtype=float)
    return shown.assign(age=table["age"].fillna(table["age"].median()), unknown=table["age"].isna().astype(float))


model = GradientBoostingClassifier(n_estimators=60, max_depth=3, learning_rate=0.08, random_state=0)
model.fit(features(train), train["target"])

prediction = model.predict(features(test))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
