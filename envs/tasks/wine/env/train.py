import pandas as pd
from sklearn.neighbors import KNeighborsClassifier

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, y = train.drop(columns=["id", "target"]), train["target"]

model = KNeighborsClassifier(n_neighbors=15)
model.fit(X, y)

prediction = model.predict_proba(test.drop(columns=["id"]))
pd.DataFrame(prediction, columns=model.classes_, index=test["id"]).to_csv("submission.csv")
